"""``python -m rubric_arm_lite`` is ``rubric-arm``."""

from rubric_arm_lite.cli.main import main

if __name__ == "__main__":
    main()

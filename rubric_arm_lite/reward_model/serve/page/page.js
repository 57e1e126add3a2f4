"use strict";
// The page for people. Texts of models and users are only ever set as textContent or as the value of a field, so they
// cannot inject markup. All paths are relative: the page works behind the path of a proxy.

const $ = (id) => document.getElementById(id);
const FIELDS = ["prompt", "response_a", "response_b"];
const KINDS = { hard_rule: "Hard Rule", principle: "Principle" };

let edited = false; // whether the rubric on the page is the user's
let shown = null; // the newest answer
let running = null; // the AbortController of the request in progress

function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}

function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

async function ask(path, body, signal) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  let reply;
  try {
    reply = await fetch(path, { ...options, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The service cannot be reached. Is rubric-arm play still running?");
  }
  const answer = await reply.json().catch(() => ({}));
  if (!reply.ok) throw new Error(answer.error || `The service answered ${reply.status}.`);
  return answer;
}

function showProblem(problem) {
  $("problem").textContent = problem;
  $("problem").hidden = !problem;
}

function setBusy(text) {
  $("busy").textContent = text;
  $("busy").hidden = !text;
  for (const id of ["judge", "again"]) $(id).disabled = Boolean(text);
  document.body.setAttribute("aria-busy", text ? "true" : "false");
}

// --- judging -------------------------------------------------------------------------------------------------------

async function judge() {
  const body = Object.fromEntries(FIELDS.map((id) => [id, $(id).value]));
  const missing = FIELDS.find((id) => !body[id].trim());
  if (missing) {
    showProblem("Fill in the prompt and both responses.");
    $(missing).focus();
    return;
  }
  body.votes = Number($("votes").value);
  body.state = $("state").value;
  if (edited) {
    body.rubric = rubricText();
    if (!body.rubric) {
      showProblem("The rubric has no criteria. Add one, or go back to the model’s.");
      return;
    }
  }
  running?.abort();
  const mine = running = new AbortController();
  showProblem("");
  setBusy(edited ? "Judging in both orders …" : "Writing a rubric, judging in both orders …");
  try {
    show(await ask("v1/compare", body, mine.signal), edited);
    if (FIELDS.some((id) => $(id).value !== body[id])) markStale(true); // changed meanwhile
  } catch (error) {
    if (error.name !== "AbortError") showProblem(error.message);
  } finally {
    if (running === mine) {
      running = null;
      setBusy("");
    }
  }
}

function show(answer, own) {
  shown = answer;
  edited = own;
  $("result").hidden = false;
  showVerdict(answer);
  showRubric(answer, own);
  showTexts(answer);
  const unknown = answer.unknown_words;
  if (unknown.length) {
    const more = unknown.length > 12 ? " …" : "";
    showProblem(`This model does not know ${unknown.slice(0, 12).join(", ")}${more}; it reads them as blanks.`);
  }
  markStale(false);
  $("verdict").scrollIntoView({ block: "nearest", behavior: "smooth" });
}

function showVerdict(answer) {
  const winner = answer.winner;
  $("winner").className = winner ? winner.toLowerCase() : "";
  $("winner").textContent = winner ? `Response ${winner} is better` : "No verdict";
  const total = answer.original.length + answer.swapped.length;
  const naming = Math.round(answer.confidence * total);
  let share = `${naming} of ${count(total, "judgement")} name it (confidence ${Math.round(answer.confidence * 100)} %).`;
  if (!total) share = "The rubric cannot be used, so nothing was judged. Write one below, or try another checkpoint.";
  else if (!winner && positional(answer)) share = "The judge names another response when the order changes, so neither wins.";
  else if (!winner) share = "The judgements are even, or could not be read. More judgements per order may settle it.";
  else if (!answer.consistent) share += " They do not all agree.";
  $("share").textContent = share;
  const orders = [["A shown first", answer.original], ["B shown first", answer.swapped]];
  $("orders").replaceChildren(...(total ? orders.map(([name, judgements]) => orderOf(name, judgements)) : []));
}

function positional(answer) {
  const [original, swapped] = [answer.original, answer.swapped].map((judgements) => new Set(judgements.map((one) => one.winner)));
  return original.size === 1 && swapped.size === 1 && !original.has(null) && !swapped.has(null);
}

function orderOf(name, judgements) {
  const named = { A: 0, B: 0, none: 0 };
  for (const judgement of judgements) named[judgement.winner ?? "none"] += 1;
  const parts = Object.entries(named).filter(([, times]) => times);
  const single = judgements.length === 1;
  const text = parts.map(([side, times]) => (single ? side : `${side} × ${times}`)).join(", ");
  const pair = make("div");
  pair.append(make("dt", "", name), make("dd", "", text === "none" ? "unreadable" : text));
  return pair;
}

// --- the rubric ----------------------------------------------------------------------------------------------------

function showRubric(answer, own) {
  const usable = answer.rubric.status === "ok";
  $("origin").textContent = own ? "Your rubric. Change it and judge again." : usable
    ? "Written by the model from the prompt alone. Change it and judge again."
    : `What the model wrote is no usable rubric (${answer.rubric.status}). Add criteria of your own:`;
  $("unusable").hidden = usable;
  $("unusable").textContent = usable ? "" : answer.rubric.text || "(nothing)";
  $("criteria").replaceChildren();
  for (const criterion of answer.rubric.criteria) {
    addRow(criterion.text, criterion.kind, answer.findings.find((finding) => finding.number === criterion.number));
  }
  $("table").hidden = !answer.rubric.criteria.length;
  number();
}

function addRow(text, kind, finding) {
  const row = make("tr");
  const head = make("th");
  head.scope = "row";
  const box = make("div", "criterion");
  const field = make("textarea");
  field.rows = 1;
  field.maxLength = 2000;
  field.value = text;
  field.addEventListener("input", () => { grow(field); change(); });
  const kinds = make("select");
  for (const [value, label] of Object.entries(KINDS)) kinds.append(new Option(label, value, false, value === kind));
  kinds.addEventListener("change", change);
  const remove = make("button", "", "Remove");
  remove.type = "button";
  remove.addEventListener("click", () => {
    const next = row.nextElementSibling ?? row.previousElementSibling;
    row.remove();
    (next?.querySelector("textarea") ?? $("add")).focus();
    change();
  });
  const tools = make("div", "tools");
  tools.append(kinds, remove);
  box.append(make("span", "number"), field, tools);
  head.append(box);
  row.append(head, cellOf("A", finding?.response_a), cellOf("B", finding?.response_b));
  $("criteria").append(row);
  $("table").hidden = false;
  grow(field);
  return field;
}

function cellOf(letter, remarks) {
  const cell = make("td");
  cell.dataset.letter = letter;
  const lines = make("div");
  if (remarks === undefined) lines.append(make("p", "quiet", "Not judged yet"));
  else if (!remarks.length) lines.append(make("p", "quiet", "No readable justification"));
  for (const remark of remarks ?? []) {
    const line = make("p");
    if (remark.met !== null) line.append(make("span", `mark ${remark.met ? "met" : "missed"}`, remark.met ? "✓ met" : "✗ missed"));
    if (remarks.length > 1) line.append(make("span", "mark times", `${remark.count} ×`));
    line.append(document.createTextNode(remark.text));
    lines.append(line);
  }
  cell.append(lines);
  return cell;
}

function number() {
  [...$("criteria").rows].forEach((row, i) => {
    row.querySelector(".number").textContent = `${i + 1}.`;
    row.querySelector("textarea").setAttribute("aria-label", `Criterion ${i + 1}`);
    row.querySelector("select").setAttribute("aria-label", `Kind of criterion ${i + 1}`);
    row.querySelector("button").setAttribute("aria-label", `Remove criterion ${i + 1}`);
  });
}

function change() {
  running?.abort(); // its answer would replace what the user is writing
  edited = true;
  number();
  $("table").hidden = !$("criteria").rows.length;
  $("origin").textContent = "Your rubric. Judge again to see what it changes.";
  $("unusable").hidden = true;
  markStale(true);
}

function rubricText() {
  const lines = [...$("criteria").rows].map((row) => [
    row.querySelector("textarea").value.replace(/\s+/g, " ").trim(), KINDS[row.querySelector("select").value],
  ]).filter(([text]) => text);
  return lines.map(([text, kind], i) => `${i + 1}. ${text} [${kind}]`).join("\n");
}

function markStale(stale) {
  $("result").classList.toggle("stale", stale);
  $("again").hidden = !(stale && edited);
  $("reset").hidden = !edited;
}

function grow(field) {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + 2}px`;
}

// --- texts ---------------------------------------------------------------------------------------------------------

function showTexts(answer) {
  const orders = [["A shown first", answer.original], ["B shown first: its text calls B “Response A”", answer.swapped]];
  const texts = [];
  for (const [name, judgements] of orders) {
    judgements.forEach((judgement, i) => {
      const details = make("details");
      const which = judgements.length > 1 ? `, ${i + 1} of ${judgements.length}` : "";
      details.append(make("summary", "", name + which), make("pre", "text", judgement.text || "(nothing)"));
      texts.push(details);
    });
  }
  if (!texts.length) texts.push(make("p", "quiet", "Nothing was judged."));
  $("texts").replaceChildren(...texts);
}

// --- the page ------------------------------------------------------------------------------------------------------

function nameOf(state) {
  const names = { "warm-up": "after the warm-up", latest: "latest", final: "final" };
  return names[state] ?? state.replace(/^state-0*(\d+)$/, "checkpoint $1");
}

async function start() {
  const about = await ask("v1/about");
  $("name").textContent = about.name;
  document.title = `${about.name} · rubric-arm`;
  $("state").replaceChildren(...about.states.map((state) => new Option(nameOf(state), state)));
  $("state").value = about.state;
  $("example").hidden = !about.examples;
}

$("ask").addEventListener("submit", (event) => { event.preventDefault(); judge(); });
$("again").addEventListener("click", () => judge().then(() => $("winner").focus()));
$("state").addEventListener("change", () => { if (shown) judge(); });
$("reset").addEventListener("click", () => { edited = false; judge().then(() => $("winner").focus()); });
$("add").addEventListener("click", () => { addRow("The response ", "principle").focus(); change(); });
$("swap").addEventListener("click", () => {
  [$("response_a").value, $("response_b").value] = [$("response_b").value, $("response_a").value];
  if (shown) markStale(true);
});
$("example").addEventListener("click", async () => {
  try {
    const pair = await ask("v1/example");
    for (const id of FIELDS) $(id).value = pair[id];
    edited = false;
    await judge();
  } catch (error) {
    showProblem(error.message);
  }
});
for (const id of FIELDS) $(id).addEventListener("input", () => { if (shown) markStale(true); });
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !running) judge();
});
window.addEventListener("resize", () => document.querySelectorAll(".criterion textarea").forEach(grow));
start().catch((error) => showProblem(error.message));

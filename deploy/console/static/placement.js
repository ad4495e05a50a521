// The editor of a placement's rules: words are completed, faults are shown where they are, and what a change
// would do is asked for before anybody gets it. Without it the form still saves.

const form = document.querySelector("#editor");
const asked = document.querySelector("#questions");
const base = `/v1/admin/placements/${encodeURIComponent(form.dataset.name)}`;
const WAIT_MS = 250;
const SHOWN_WORDS = 12;

async function ask(method, path, body) {
  const answer = await fetch(path, {
    method,
    headers: body ? { "Content-Type": "application/json", "X-CSRF-Token": document.body.dataset.csrf } : {},
    body: body && JSON.stringify(body),
  });
  const found = await answer.json();
  if (!answer.ok) throw new Error([found.title, found.detail, found.remedy].filter(Boolean).join(": "));
  return found;
}

function make(name, text = "", fields = {}) {
  const element = document.createElement(name);
  element.textContent = text;
  for (const [key, value] of Object.entries(fields)) element.setAttribute(key, value);
  return element;
}

function draft() {
  const { filter, limit, fallback, more } = form.elements;
  const said = { filter: filter.value, fallback: fallback.value, more: more.value };
  return limit.value ? { ...said, limit: Number(limit.value) } : said;
}

// One text of the draft. A copy of it lies behind the field: it has the mark of the fault, and says where the
// caret is, to show words beside it.
class RulesField {
  constructor(area, words) {
    this.area = area;
    this.words = words;
    this.begin = null;
    this.matches = [];
    this.chosen = 0;
    this.mirror = make("div", "", { class: "mirror", "aria-hidden": "true" });
    this.list = make("ul", "", { class: "words", role: "listbox", id: `${area.id}-words`, "aria-label": "Words", hidden: "" });
    const box = make("div", "", { class: "editor" });
    area.replaceWith(box);
    box.append(this.mirror, area, this.list);
    area.setAttribute("aria-autocomplete", "list");
    area.setAttribute("aria-controls", this.list.id);
    area.addEventListener("input", () => { this.mark(null); this.offer(); });
    area.addEventListener("keydown", (event) => this.press(event));
    area.addEventListener("scroll", () => { this.mirror.scrollTop = area.scrollTop; });
    area.addEventListener("blur", () => this.close());
    area.addEventListener("click", () => this.close());
    this.list.addEventListener("mousedown", (event) => {
      event.preventDefault();
      const place = [...this.list.children].indexOf(event.target.closest("li"));
      if (place >= 0) this.take(place);
    });
    this.draw();
  }

  mark(begin) {
    this.begin = begin;
    this.draw();
  }

  draw() {
    const text = this.area.value;
    const caret = make("span", "\u200b", { class: "caret" });
    const at = this.area.selectionStart;
    this.mirror.replaceChildren(text.slice(0, at), caret, text.slice(at), "\n");
    this.caret = caret;
    if (this.begin !== null) {
      // To the end of the word, and of something at the end of the text as well.
      const length = Math.max(1, /^[\w.]*/.exec(text.slice(this.begin))[0].length);
      const fault = make("mark", text.slice(this.begin, this.begin + length) || " ");
      this.mirror.replaceChildren(text.slice(0, this.begin), fault, text.slice(this.begin + length), "\n");
    }
    this.mirror.scrollTop = this.area.scrollTop;
  }

  // The word before the caret, and, behind a comparison, the attribute whose values may stand there.
  before() {
    const text = this.area.value.slice(0, this.area.selectionStart);
    const quoted = /([\w.]+(?:\["[^"]*"\])?)\s*(?:==|!=|in\s*\[(?:[^\]]*,)?)\s*(["'])([^"']*)$/.exec(text);
    if (quoted) return { word: quoted[3], attribute: quoted[1], quote: quoted[2] };
    const listed = /(["'])([^"']*)$/.exec(/[^&|(]*$/.exec(text)[0]);
    if (listed && !/\bin\b/.test(text.slice(text.lastIndexOf(listed[0])))) {
      const open = (text.match(/["']/g) ?? []).length % 2;
      if (open) return { word: listed[2], attribute: "item.category", quote: listed[1] };
    }
    return { word: /[\w.]*$/.exec(text)[0] };
  }

  find() {
    const { word, attribute, quote } = this.before();
    const low = word.toLowerCase();
    if (attribute) {
      const values = this.words.find((each) => each.text === attribute)?.values ?? [];
      return values
        .map((each) => JSON.parse(each))
        .filter((each) => typeof each === "string" && each.toLowerCase().startsWith(low) && !each.includes(quote))
        .map((each) => ({ text: each, put: each.slice(word.length), about: attribute }));
    }
    const last = low.slice(low.lastIndexOf(".") + 1);
    return this.words
      .filter((each) => (each.kind === "rule") === (this.area.name === "more" && /"\w*$/.test(this.area.value.slice(0, this.area.selectionStart))))
      .filter((each) => each.text.toLowerCase().startsWith(low) || (each.kind === "function" && low.includes(".") && each.text.startsWith(last)))
      .map((each) => ({ ...each, put: each.text.slice(each.text.toLowerCase().startsWith(low) ? word.length : last.length) }));
  }

  offer(always = false) {
    const { word, attribute } = this.before();
    this.matches = always || word || attribute ? this.find().filter((each) => each.put).slice(0, SHOWN_WORDS) : [];
    this.chosen = 0;
    if (!this.matches.length) return this.close();
    this.list.replaceChildren(...this.matches.map((each, place) => {
      const item = make("li", "", { role: "option", id: `${this.list.id}-${place}`, "aria-selected": String(!place) });
      item.append(make("code", each.text), make("span", each.about ?? "", { class: "quiet" }));
      return item;
    }));
    const fault = this.begin;
    this.begin = null;
    this.draw();
    this.list.style.left = `${Math.min(this.caret.offsetLeft, this.area.clientWidth / 2)}px`;
    this.list.style.top = `${this.caret.offsetTop + this.caret.offsetHeight - this.area.scrollTop}px`;
    this.begin = fault;
    this.draw();
    this.list.hidden = false;
    this.area.setAttribute("aria-activedescendant", `${this.list.id}-0`);
  }

  close() {
    this.list.hidden = true;
    this.matches = [];
    this.area.removeAttribute("aria-activedescendant");
  }

  move(step) {
    this.chosen = (this.chosen + step + this.matches.length) % this.matches.length;
    [...this.list.children].forEach((item, place) => item.setAttribute("aria-selected", String(place === this.chosen)));
    this.list.children[this.chosen].scrollIntoView({ block: "nearest" });
    this.area.setAttribute("aria-activedescendant", `${this.list.id}-${this.chosen}`);
  }

  take(place) {
    const at = this.area.selectionStart;
    this.area.setRangeText(this.matches[place].put, at, this.area.selectionEnd, "end");
    this.close();
    this.area.dispatchEvent(new Event("input", { bubbles: true }));
    this.close();
  }

  press(event) {
    if (event.key === " " && event.ctrlKey) {
      event.preventDefault();
      return this.offer(true);
    }
    if (this.list.hidden) return;
    const moves = { ArrowDown: () => this.move(1), ArrowUp: () => this.move(-1), Escape: () => this.close() };
    moves.Enter = moves.Tab = () => this.take(this.chosen);
    if (moves[event.key]) {
      event.preventDefault();
      moves[event.key]();
    }
  }
}

const { words, missing } = await ask("GET", "/v1/admin/placements/vocabulary").catch((error) => ({ words: [], missing: [error.message] }));
const fields = { filter: new RulesField(form.elements.filter, words), more: new RulesField(form.elements.more, words) };
const verdict = document.querySelector("#verdict");
for (const each of missing) document.querySelector("#missing").append(make("p", `Not told: ${each}.`, { class: "note" }));

// What is wrong, and where: a click leads there.
function showFaults(faults) {
  for (const [part, field] of Object.entries(fields)) {
    const own = faults.filter((each) => each.part === part);
    field.mark(own.find((each) => each.begin !== undefined)?.begin ?? null);
    field.area.setAttribute("aria-invalid", String(own.length > 0));
  }
  verdict.replaceChildren(...faults.map((each) => {
    const place = each.column ? `${each.line > 1 ? `line ${each.line}, ` : ""}column ${each.column}: ` : "";
    const button = make("button", `${each.field || each.part}: ${place}${each.problem}`, { type: "button", class: "plain" });
    button.dataset.column = each.column ?? "";
    button.addEventListener("click", () => {
      const { area } = fields[each.part];
      area.focus();
      area.setSelectionRange(each.begin ?? 0, each.begin ?? 0);
    });
    const line = make("p", "", { class: "bad" });
    line.append(button);
    return line;
  }));
  for (const button of form.querySelectorAll("button[data-needs-rules]")) button.disabled = faults.length > 0;
}

let turn = 0;
async function check() {
  const mine = ++turn;
  try {
    const found = await ask("POST", `${base}/check`, draft());
    if (mine !== turn) return;
    showFaults(found.faults);
    if (!found.faults.length) {
      const counted = found.allowed === undefined ? "what the filter allows hangs on the person and the request" : `the filter allows ${found.allowed.toLocaleString("en")} of ${found.items.toLocaleString("en")} items`;
      verdict.replaceChildren(make("p", `Can be used: ${counted}.`, { class: "good" }));
    }
  } catch (error) {
    if (mine === turn) verdict.replaceChildren(make("p", error.message, { class: "bad" }));
  }
  verdict.dataset.turn = String(mine);
}

let waiting = 0;
form.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(check, WAIT_MS);
});
await check();

function table(headings, rows) {
  const made = make("table");
  const head = made.createTHead().insertRow();
  for (const each of headings) head.append(make("th", each, { scope: "col" }));
  const body = made.createTBody();
  for (const row of rows) body.insertRow().append(...row);
  const box = make("div", "", { class: "scroll", tabindex: "0", role: "region", "aria-label": headings.join(", ") });
  box.append(made);
  return box;
}

function figure(value, digits = 0, after = "") {
  const data = make("data", value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }) + after);
  data.value = String(value);
  return data;
}

function cell(...parts) {
  const made = make("td");
  made.append(...parts);
  return made;
}

function describe(item, place) {
  if (!item) return cell("");
  const link = make("a", item.title || item.item_id, { href: `/items/${encodeURIComponent(item.item_id)}` });
  const notes = [item.placed_by && `by ${item.placed_by}`, item.label].filter(Boolean);
  if (item.other_place === undefined) notes.push("only here");
  else if (item.other_place !== place) notes.push(`there at ${item.other_place}`);
  const made = cell(link, " ", make("span", notes.join(", "), { class: "quiet" }));
  made.dataset.item = item.item_id;
  if (item.other_place === undefined) made.className = "changed-place";
  return made;
}

function showPreview(found) {
  const parts = found.missing.map((each) => make("p", `Not told: ${each}.`, { class: "note" }));
  for (const each of found.lists) {
    const heading = make("h3");
    heading.append(make("a", each.person, { href: `/people/${encodeURIComponent(each.person)}` }));
    parts.push(heading);
    if (each.fault) parts.push(make("p", each.fault, { class: "note bad" }));
    if (each.fallback) parts.push(make("p", "No version of the model answered: these are popular items.", { class: "note" }));
    const places = [...Array(Math.max(each.before.length, each.after.length)).keys()];
    if (!places.length) parts.push(make("p", "Both lists are empty.", { class: "note" }));
    else parts.push(table(["Place", "Before", "After"], places.map((at) => [cell(figure(at + 1)), describe(each.before[at], at + 1), describe(each.after[at], at + 1)])));
  }
  return parts;
}

function showReplay(found) {
  const said = (estimate, digits = 4) => [figure(estimate.value, digits), ` (${estimate.low.toFixed(digits)} to ${estimate.high.toFixed(digits)})`];
  const rows = [
    ["Lists compared", figure(found.compared), ` of ${found.logged.toLocaleString("en")} in the log`],
    ["Lists that change", figure(found.changed), found.compared ? ` (${((100 * found.changed) / found.compared).toFixed(0)} %)` : ""],
    ["Different items", figure(found.items_before), " before, ", figure(found.items_after), " after"],
    ["Lists shorter than asked for", figure(found.short_before), " before, ", figure(found.short_after), " after"],
    ["Places that the rules of then give again", figure(100 * found.reproduced, 0, " %")],
  ];
  const parts = [table(["What", "How many"], rows.map(([name, ...rest]) => [cell(name), cell(...rest)]))];
  for (const [reason, number] of Object.entries(found.left_out ?? {})) parts.push(make("p", `${number.toLocaleString("en")} lists left out: ${reason}.`));
  if (found.earned) {
    const earned = [[cell("rules of then"), cell(...said(found.earned)), cell("")]];
    for (const each of found.estimates) earned.push([cell(each.estimator), cell(...said(each.reward)), cell(...said(each.gain))]);
    parts.push(table(["Reward of a place", "With its 95 % interval", "Beside the rules of then"], earned));
  }
  if (found.cannot_say) parts.push(make("p", `The log cannot say what they would earn: ${found.cannot_say}.`, { class: "note warn" }));
  return parts;
}

asked.addEventListener("submit", (event) => event.preventDefault());
const number = (name) => Number(asked.elements[name].value);
const questions = {
  preview: () => {
    const people = asked.elements.people.value.split(/[\s,]+/).filter(Boolean);
    const context = asked.elements.context.value.trim();
    return { ...draft(), people, count: number("count"), ...(context ? { context: JSON.parse(context) } : {}) };
  },
  replay: () => ({ ...draft(), days: number("days"), lists: number("lists") }),
};
const show = { preview: showPreview, replay: showReplay };

for (const button of form.querySelectorAll("button[data-ask]")) {
  const what = button.dataset.ask;
  const place = document.querySelector(`#${what}`);
  button.addEventListener("click", async () => {
    button.disabled = true;
    place.setAttribute("aria-busy", "true");
    place.replaceChildren(make("p", what === "replay" ? "The lists of the last days are made again: this may take a minute." : "Lists are made.", { class: "quiet" }));
    try {
      const found = await ask("POST", `${base}/${what}`, questions[what]());
      showFaults(found.faults);
      place.replaceChildren(...(found.faults.length ? [make("p", "The rules cannot be used: see above.", { class: "note bad" })] : show[what](found)));
    } catch (error) {
      place.replaceChildren(make("p", error.message, { class: "note bad" }));
    } finally {
      button.disabled = false;
      place.removeAttribute("aria-busy");
    }
  });
}
form.dataset.ready = "true";

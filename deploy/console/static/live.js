// Follows the console's figures: one stream a page, and only where something on the page moves.
//
// An element with data-live="now.events" shows that figure of each sample. A page's own module, AREA.js, may
// export update(sample), which is called with each.

const state = document.querySelector("#live");
const figures = document.querySelectorAll("[data-live]");

function say(name, text) {
  if (state && state.dataset.state !== name) {
    state.dataset.state = name;
    state.textContent = text;
  }
}

export function find(sample, path) {
  return path.split(".").reduce((part, name) => part?.[name], sample);
}

export function show(element, value, digits = 0) {
  const data = document.createElement("data");
  data.value = String(value);
  data.textContent = value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  if (element.textContent !== data.textContent) {
    element.classList.remove("changed");
    element.replaceChildren(data);
    requestAnimationFrame(() => element.classList.add("changed"));
  }
}

function showFigures(sample) {
  for (const element of figures) {
    const value = find(sample, element.dataset.live);
    if (typeof value === "number") show(element, value, Number(element.dataset.digits ?? 0));
  }
}

// What changes something needs the token of this session's pages, and a reason.
export async function act(method, path, body) {
  const answer = await fetch(path, {
    method,
    headers: { "Content-Type": "application/json", "X-CSRF-Token": document.body.dataset.csrf },
    body: JSON.stringify(body),
  });
  return { ok: answer.ok, status: answer.status, document: await answer.json() };
}

const area = document.body.dataset.module;
const module = area && area !== "live" ? await import(`./${area}.js`) : {};
if (figures.length || module.update) {
  const source = new EventSource("/v1/admin/live");
  source.onmessage = (message) => {
    const sample = JSON.parse(message.data);
    say("live", "live");
    showFigures(sample);
    module.update?.(sample);
  };
  // A stream ends now and then, and the browser asks again. What is closed for good was refused.
  source.onerror = () =>
    setTimeout(() => {
      if (source.readyState === EventSource.CLOSED) say("away", "not live: load the page again");
      else if (source.readyState === EventSource.CONNECTING) say("away", "the console does not answer");
    }, 4000);
}

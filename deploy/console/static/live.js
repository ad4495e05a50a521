// Where every page begins: loads the page's own module, static/AREA.js, and hands it each sample of the console's
// figures, where it exports update(sample). One stream a page, and only where something on it moves.
//
// It exports nothing, and nothing in it is waited for while it is loaded: so whatever a page's module imports, this
// file too, neither waits for the other. What several modules share stands in figures.js and charts.js.

const state = document.querySelector("#live");
const pause = document.querySelector("#pause");
let current = null;

function say(name, text) {
  if (state && state.dataset.state !== name) {
    state.dataset.state = name;
    state.textContent = text;
  }
}

function connect(update) {
  const source = new EventSource("/v1/admin/live");
  current = source;
  source.onmessage = (message) => {
    say("live", "live");
    update(JSON.parse(message.data));
  };
  // A stream ends now and then, and the browser asks again. What is closed for good was refused.
  source.onerror = () =>
    setTimeout(() => {
      if (source !== current) return;
      if (source.readyState === EventSource.CLOSED) say("away", "not live: load the page again");
      else if (source.readyState === EventSource.CONNECTING) say("away", "the console does not answer");
    }, 4000);
}

// What moves by itself can be held, to be read at leisure.
function follow({ update }) {
  if (!update) return;
  connect(update);
  pause.hidden = false;
  pause.addEventListener("click", () => {
    if (current) {
      current.close();
      current = null;
      say("paused", "paused");
    } else {
      connect(update);
    }
    pause.textContent = current ? "Pause" : "Go on";
  });
}

function tell(fault) {
  say("away", "a part of this page is missing: load it again");
  throw fault;
}

// On a phone the pages' names are a line that scrolls: the one that is shown is in sight.
document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });

const area = document.body.dataset.module;
if (area) import(`./${area}.js`).then(follow, tell);

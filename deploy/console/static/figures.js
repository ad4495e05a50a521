// Reads the tables that stand beside charts: what is drawn is what is written there.

// The number in a cell; null where there is none.
export function number(cell) {
  const data = cell.querySelector("data");
  return data ? Number(data.value) : null;
}

// The time in a cell, in seconds since 1970.
export function seconds(cell) {
  return Date.parse(cell.querySelector("time").dateTime) / 1000;
}

// The rows of a table's body; none where there is no such table.
export function rows(selector) {
  return [...document.querySelectorAll(`${selector} tbody tr`)];
}

// Takes what the server says of this page now in the place of an element; whether it did. Nobody's words are
// thrown away: while somebody writes a reason it stays.
export async function renew(selector) {
  const isWriting = () => Boolean(document.activeElement?.closest("form"));
  if (isWriting()) return false;
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  const made = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector(selector);
  if (!answer.ok || !made || isWriting()) return false;
  document.querySelector(selector).replaceWith(made);
  return true;
}

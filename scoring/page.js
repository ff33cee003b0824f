"use strict";
// The listeners sit on the document: a page with many pictures answers while it is still being read.

function cardsOf(button) {
  const card = button.closest(".card");
  return card ? [card] : [...document.querySelectorAll(".card")];
}

function press(root, attribute, value) {
  for (const button of root.querySelectorAll(`button[data-${attribute}]`)) {
    button.ariaPressed = String(button.dataset[attribute] === value);
  }
}

function compare(card, pair) {
  const button = [...card.querySelectorAll("button[data-pair]")].find((button) => button.dataset.pair === pair);
  if (!button) return; // this image has no such picture
  const [left, right] = JSON.parse(pair);
  for (const picture of card.querySelectorAll(".stage img")) {
    picture.hidden = picture.dataset.label !== left && picture.dataset.label !== right;
    picture.classList.toggle("left", picture.dataset.label === left);
  }
  card.querySelector(".tag.left").textContent = left;
  card.querySelector(".tag.right").textContent = right;
  card.querySelector(".grip").ariaLabel = `${left} on the left, ${right} on the right`;
  press(card, "pair", pair);
}

function zoom(card, factor) {
  const scroll = card.querySelector(".scroll");
  const across = (scroll.scrollLeft + scroll.clientWidth / 2) / scroll.scrollWidth;
  const down = (scroll.scrollTop + scroll.clientHeight / 2) / scroll.scrollHeight;
  card.querySelector(".view").dataset.zoom = factor;
  scroll.scrollLeft = across * scroll.scrollWidth - scroll.clientWidth / 2;
  scroll.scrollTop = down * scroll.scrollHeight - scroll.clientHeight / 2;
  press(card, "zoom", factor);
}

function split(view, percent) {
  const grip = view.querySelector(".grip");
  grip.value = percent;
  view.style.setProperty("--split", grip.value);
  grip.ariaValueText = `${Math.round(grip.value)} %`;
}

function splitAt(view, x) {
  const box = view.getBoundingClientRect();
  split(view, ((x - box.left) / box.width) * 100);
}

function reorder(list, items) {
  const places = items.map((item) => [...item.querySelectorAll(".scroll")].map((scroll) => [scroll, scroll.scrollLeft, scroll.scrollTop]));
  list.append(...items);
  for (const [scroll, left, top] of places.flat()) scroll.scrollTo(left, top);
}

function sortBy(button) {
  const heading = button.closest("th");
  const body = heading.closest("table").tBodies[0];
  const sign = heading.ariaSort === "ascending" ? -1 : 1;
  for (const other of heading.closest("thead").querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
  heading.ariaSort = sign > 0 ? "ascending" : "descending";
  const names = new Intl.Collator(undefined, { numeric: true });
  const value = (row) => row.cells[button.dataset.column].dataset.value;
  const order = (a, b) => {
    const [first, second] = [value(a), value(b)];
    if (first === "" || second === "") return (first === "") - (second === ""); // what is missing comes last, whichever the direction
    return sign * (button.dataset.kind === "text" ? names.compare(first, second) : first - second);
  };
  const rows = [...body.rows].sort((a, b) => order(a, b) || a.dataset.index - b.dataset.index);
  reorder(body, rows);
  reorder(document.querySelector(".cards"), rows.map((row) => document.getElementById(row.dataset.card)));
}

function filter(text) {
  const words = text.toLowerCase().split(/\s+/);
  const rows = [...document.querySelector(".listing tbody").rows];
  let found = 0;
  for (const row of rows) {
    const name = row.cells[0].textContent.toLowerCase();
    const hidden = !words.every((word) => name.includes(word));
    row.hidden = document.getElementById(row.dataset.card).hidden = hidden;
    found += !hidden;
  }
  document.querySelector(".finder output").textContent = found < rows.length ? `${found} of ${rows.length} images` : "";
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.column) return sortBy(button);
  for (const card of cardsOf(button)) {
    if (button.dataset.pair) compare(card, button.dataset.pair);
    if (button.dataset.zoom) zoom(card, button.dataset.zoom);
  }
  const ofAll = document.querySelector(".all");
  for (const attribute of ["pair", "zoom"]) { // the buttons above the cards show what was last chosen there, until a card goes its own way
    if (button.dataset[attribute]) press(ofAll, attribute, ofAll.contains(button) ? button.dataset[attribute] : undefined);
  }
});

document.addEventListener("input", (event) => {
  if (event.target.matches(".grip")) split(event.target.closest(".view"), event.target.value);
  if (event.target.matches(".finder input")) filter(event.target.value);
});

document.addEventListener("scroll", ({ target }) => {
  if (target.matches?.(".scroll")) target.closest(".view").style.setProperty("--shift", target.scrollLeft);
}, { capture: true, passive: true });

// Beside the handle: a picture that is seen whole follows the pointer with its cut; a larger one is moved by dragging, and cut by a click.
document.addEventListener("pointerdown", (event) => {
  const scroll = event.target.closest(".stage")?.parentElement;
  if (!scroll || event.button) return;
  const view = scroll.closest(".view");
  const pans = "pans" in view.dataset;
  event.preventDefault();
  view.querySelector(".grip").focus({ preventScroll: true });
  const start = { x: event.clientX, y: event.clientY, left: scroll.scrollLeft, top: scroll.scrollTop };
  let moved = false;
  const move = (now) => {
    if (!pans) return splitAt(view, now.clientX);
    moved ||= Math.hypot(now.clientX - start.x, now.clientY - start.y) > 4;
    if (!moved || event.pointerType === "touch") return; // under a finger the browser scrolls
    view.toggleAttribute("data-panning", true);
    scroll.scrollTo({ left: start.left + start.x - now.clientX, top: start.top + start.y - now.clientY });
  };
  const stop = (last) => {
    if (pans && !moved && last.type === "pointerup") splitAt(view, last.clientX);
    view.removeAttribute("data-panning");
    scroll.removeEventListener("pointermove", move);
    scroll.removeEventListener("pointerup", stop);
    scroll.removeEventListener("pointercancel", stop);
  };
  scroll.setPointerCapture(event.pointerId);
  scroll.addEventListener("pointermove", move);
  scroll.addEventListener("pointerup", stop);
  scroll.addEventListener("pointercancel", stop);
  if (!pans) splitAt(view, event.clientX);
});

document.addEventListener("DOMContentLoaded", () => {
  const sizes = new ResizeObserver((changes) => {
    for (const { target } of changes) {
      const scroll = target.closest(".view").querySelector(".scroll");
      const pans = scroll.scrollWidth > scroll.clientWidth + 1 || scroll.scrollHeight > scroll.clientHeight + 1;
      target.closest(".view").toggleAttribute("data-pans", pans);
    }
  });
  for (const part of document.querySelectorAll(".view, .stage")) sizes.observe(part);
});

// Elements from data. Text is only ever set as text, so nothing that a task or a user named can become markup.

/** An element with attributes and children; children are nodes or text, and null is none. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same, of SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Sets text where it differs: what stays is not touched, so a selection or a reader's place in it is kept. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Makes the children of `parent` one for each row, in the order of the rows. Those of rows that were there before are
 * kept, with the focus in them.
 */
export function keyed(parent, rows, key, create, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let next = parent.firstElementChild;
  for (const row of rows) {
    let child = known.get(key(row));
    known.delete(key(row));
    if (!child) {
      child = create(row);
      child.dataset.key = key(row);
    }
    if (child === next) next = next.nextElementSibling;
    else parent.insertBefore(child, next);
    update(child, row);
  }
  for (const child of known.values()) child.remove();
}

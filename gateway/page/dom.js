// The few things that every part does with elements. Whatever the server sends is set as text.

export const $ = (id) => document.getElementById(id);

export function element(tag, text = "", classes = "") {
  return Object.assign(document.createElement(tag), { textContent: text, className: classes });
}

/** Set custom properties through the CSSOM: the content security policy allows no style attribute. */
export function style(target, properties) {
  for (const [name, value] of Object.entries(properties)) target.style.setProperty(name, value);
  return target;
}

/** Set an element's text, and hide it (or the given parent) where there is none. */
export function say(id, text, parent = id) {
  $(id).textContent = text ?? "";
  $(parent).hidden = !text;
}

/** Tell those who do not see the page what happened. */
export function announce(text) {
  $("live").textContent = text;
}

/** Hand the person a file. */
export function save(blob, name) {
  const link = Object.assign(element("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

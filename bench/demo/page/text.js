// How numbers are written, and elements made: in one place, so that all parts of the page agree.

export const percent = (share) => share === null ? "–" : `${(100 * share).toFixed(1)}%`;
export const seconds = (value) => value === null ? "–" : `${value.toFixed(2)} s`;
export const number = (value, digits) => value === null ? "–" : value.toFixed(digits);
export const count = (value) => value === null ? "–" : Math.round(value).toLocaleString("en");

export const find = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export const colour = (lane) =>
  getComputedStyle(document.documentElement).getPropertyValue(`--lane-${lane + 1}`).trim();

export const plainColour = (name) =>
  getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// Decimal places in which two numbers agree that differ by so much.
export const places = (difference) => Math.max(0, Math.floor(-Math.log10(2 * difference)));

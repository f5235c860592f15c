// Shared by the pages: elements, numbers in words, the switch between light and dark.

const data = JSON.parse(document.getElementById('data').textContent);

const svgNamespace = 'http://www.w3.org/2000/svg';
function svg(name, attributes, content) {
  const made = document.createElementNS(svgNamespace, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (content !== undefined) made.textContent = content;
  return made;
}
const byId = id => document.getElementById(id);
// element('td', {class: 'number'}, 'text', another): null and false children are left out.
function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) made.setAttribute(key, value);
  made.append(...children.flat().filter(child => child !== null && child !== false));
  return made;
}

const count = number => number.toLocaleString('en-GB');
const plural = (number, what) => `${count(number)} ${what}${number === 1 ? '' : 's'}`;
function mebibytes(bytes) {
  const size = bytes / 2 ** 20;
  const digits = size >= 100 ? 1 : size >= 1 || size === 0 ? 2 : 3;
  return size.toLocaleString('en-GB', {minimumFractionDigits: digits, maximumFractionDigits: digits});
}
const exactly = bytes => `${count(bytes)} bytes`;
const sized = (bytes, unit = '') =>
  element('span', {title: exactly(bytes), 'data-bytes': bytes}, mebibytes(bytes) + unit);
const percent = fraction => fraction > 0 && fraction < 0.0005 ? '< 0.1 %'
  : `${(fraction * 100).toFixed(fraction < 0.0995 && fraction > 0 ? 1 : 0)} %`;
// Names may be cut where their parts meet.
const breakable = name => name.split(/(?<=[._])/).flatMap(part => [part, element('wbr')]);
const pairs = rows => rows.flatMap(([term, what]) => [element('dt', null, term), element('dd', null, what)]);

// A step of 1, 2 or 5 times a power of ten that gives about `wanted` of them.
function niceStep(range, wanted) {
  const rough = range / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map(factor => factor * power).find(step => step >= rough);
}

function startTheme() {
  const button = byId('theme');
  let dark = matchMedia('(prefers-color-scheme: dark)').matches;
  const show = () => {
    document.documentElement.style.colorScheme = dark ? 'dark' : 'light';
    button.textContent = dark ? 'Light mode' : 'Dark mode';
  };
  button.addEventListener('click', () => { dark = !dark; show(); });
  show();
}

startTheme();

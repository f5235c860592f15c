// Uses the page of --memory-report as a reader would and tells the frame around it what it saw (browser.py).

(() => {
  const {all, overflow, lookAtTheWhole, tell} = window.pageChecks;
  const bytes = element => Number(element.querySelector('[data-bytes]').dataset.bytes);
  const cursor = () => Number(document.getElementById('chart').getAttribute('aria-valuenow'));
  const here = () => bytes(document.getElementById('here'));

  function press(key) {
    const chart = document.getElementById('chart');
    chart.focus();
    const event = new KeyboardEvent('keydown', {key, bubbles: true, cancelable: true});
    document.activeElement.dispatchEvent(event);
    return {cursor: cursor(), here: here(), handled: event.defaultPrevented,
      said: chart.getAttribute('aria-valuetext'), value: document.getElementById('value').textContent};
  }

  function pointAtPeak() {
    press('Home');
    const box = document.querySelector('#chart .peak').getBoundingClientRect();
    document.getElementById('chart').dispatchEvent(new PointerEvent('pointerdown',
      {clientX: box.x + box.width / 2, clientY: box.y + box.height / 2 + 3, bubbles: true}));
    return {cursor: cursor(), here: here(), value: document.getElementById('value').textContent};
  }

  // Where the drawn areas reach highest, and where the peak is marked, in the drawing's own units.
  function drawnPeak() {
    const tops = all('#chart .area').flatMap(path =>
      [...path.getAttribute('d').matchAll(/V([\d.]+)/g)].map(match => Number(match[1])));
    return {highest: Math.min(...tops), marked: Number(document.querySelector('#chart .peak').getAttribute('cy'))};
  }

  function look() {
    const seen = {width: window.innerWidth, dark: matchMedia('(prefers-color-scheme: dark)').matches};
    seen.title = document.title;
    seen.subtitle = document.getElementById('subtitle').textContent;
    seen.peak = bytes(document.getElementById('peak'));
    seen.atStart = {cursor: cursor(), here: here()};
    seen.tags = Object.fromEntries(all('#live tbody tr').map(row => [row.dataset.tag, bytes(row.cells[1])]));
    seen.overflow = overflow();
    const keys = ['Home', 'ArrowRight', 'ArrowRight', 'ArrowLeft', 'PageDown', 'PageUp', 'ArrowLeft', 'End', 'ArrowRight',
      'b', 'ArrowDown', 'ArrowUp', 'p', 'x'];
    seen.keys = keys.map(key => ({key, ...press(key)}));
    seen.last = Number(document.getElementById('chart').getAttribute('aria-valuemax'));
    seen.outline = getComputedStyle(document.activeElement).outlineStyle;
    seen.pointed = pointAtPeak();
    seen.drawn = drawnPeak();
    document.querySelector('input[value="time"]').click();
    seen.pointedInTime = pointAtPeak();
    seen.drawnInTime = drawnPeak();
    if (!document.getElementById('all-owners').hidden) document.getElementById('all-owners').click();
    seen.owners = all('#owners tr.owner').map(row => bytes(row.cells[2]));
    all('#owners .opens').forEach(button => button.click());
    seen.opened = all('#owners .opens').every(button => button.getAttribute('aria-expanded') === 'true' &&
      document.getElementById(button.getAttribute('aria-controls')).checkVisibility());
    seen.details = all('#owners tr.detail').length;
    seen.overflowOpened = overflow();
    seen.policies = Object.fromEntries(all('#policies tbody tr').map(row => [row.dataset.policy, bytes(row.cells[1])]));
    seen.mine = all('#policies .mine').map(cell => cell.closest('tr').dataset.policy);
    seen.savings = all('#savings tbody tr').map(row => [row.cells[0].textContent, row.cells[1].textContent,
      bytes(row.cells[2])]);
    seen.untitled = all('[data-bytes]').filter(element =>
      element.title.replace(/\D/g, '') !== element.dataset.bytes).length;
    lookAtTheWhole(seen);
    return seen;
  }

  tell(look);
})();

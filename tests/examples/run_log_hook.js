// Uses the page of a run's log as a reader would and tells the frame around it what it saw (browser.py).

(() => {
  const {all, overflow, lookAtTheWhole, tell} = window.pageChecks;
  const range = document.getElementById('step');

  // The numbers that the charts show, by quantity: one for each run that is not off.
  const values = () => Object.fromEntries(all('#charts section').map(section => [section.dataset.quantity,
    [...section.querySelectorAll('.values li')].map(item =>
      item.dataset.value === '' ? null : [Number(item.dataset.step), Number(item.dataset.value)])]));
  function at(step) {
    range.value = step;
    range.dispatchEvent(new Event('input', {bubbles: true}));
    return {values: values(), said: range.getAttribute('aria-valuetext'), where: document.getElementById('where').textContent};
  }
  const lines = () => Object.fromEntries(all('#charts section').map(section => [section.dataset.quantity,
    [...section.querySelectorAll('path.raw')].map(path => path.getAttribute('d').split(/(?=[MLH])/).length)]));

  // Text of a chart that is cut off or lies over other text of the chart.
  function badLabels() {
    return all('.plot svg').flatMap(drawing => {
      const frame = drawing.getBoundingClientRect();
      const boxes = [...drawing.querySelectorAll('text')].map(label => ({text: label.textContent, box: label.getBoundingClientRect()}));
      const cut = boxes.filter(({box}) => box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 ||
        box.bottom > frame.bottom + 1);
      const over = boxes.filter(({box}, i) => boxes.some((other, j) => j > i && other.box.left < box.right &&
        box.left < other.box.right && other.box.top < box.bottom - 2 && box.top < other.box.bottom - 2));
      return [...cut, ...over].map(({text}) => text);
    });
  }

  function pointAtMiddle() {
    const plot = document.querySelector('.plot');
    const box = plot.getBoundingClientRect();
    plot.dispatchEvent(new PointerEvent('pointerdown', {clientX: box.x + box.width / 2, clientY: box.y + 40, bubbles: true}));
    return Number(range.value);
  }

  function look() {
    const seen = {width: window.innerWidth, dark: matchMedia('(prefers-color-scheme: dark)').matches};
    seen.title = document.getElementById('title').textContent;
    seen.subtitle = document.getElementById('subtitle').textContent;
    seen.last = Number(range.max);
    seen.atEnd = {values: values(), step: Number(range.value)};
    seen.steps = [1, 2, 3, seen.last].map(at);
    seen.pointed = pointAtMiddle();
    seen.lines = lines();
    seen.inTurns = all('#charts section').filter(section => section.querySelector('path[stroke-dashoffset]'))
      .map(section => section.dataset.quantity);
    seen.facts = Object.fromEntries(all('#facts > div').map(fact => {
      const number = fact.querySelector('[data-value], [data-bytes]');
      return [fact.dataset.fact, number ? Number(number.dataset.value ?? number.dataset.bytes) : null];
    }));
    seen.rows = all('#runs tbody tr').filter(row => row.checkVisibility()).map(row => ({
      name: row.querySelector('b').textContent,
      numbers: [...row.cells].slice(1).map(cell => {
        const number = cell.querySelector('[data-value], [data-bytes]');
        return number ? Number(number.dataset.value ?? number.dataset.bytes) : null;
      })}));
    seen.overflow = overflow();
    seen.badLabels = badLabels();
    document.querySelector('input[value="log"]').click();
    seen.linesOnLogScale = lines();
    seen.badLabelsOnLogScale = badLabels();
    document.querySelector('input[value="linear"]').click();
    const box = document.querySelector('#runs tbody input');
    box.click();
    seen.withoutFirst = {values: values(), lines: lines(), off: box.closest('tr').classList.contains('off')};
    box.click();
    seen.unnamed = all('input').filter(input => !input.closest('label')).length;
    lookAtTheWhole(seen);
    return seen;
  }
  tell(look);
})();

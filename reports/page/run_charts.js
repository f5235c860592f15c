// A chart for each quantity, with one cursor over all of them.

let step = lastStep;
let logarithmic = false;
let smooth = runs.some(run => quantities.some(quantity => smoothable(run, quantity)));
const margin = {left: 54, right: 12, top: 12, bottom: 26};

// From the first whole multiple of a nice step below `low` to the first above `high`.
function linearScale(low, high, wanted) {
  const spread = high > low ? high - low : Math.abs(high) || 1;
  const by = niceStep(spread, wanted);
  const begin = Math.floor(low / by + 1e-9);
  const end = Math.max(Math.ceil(high / by - 1e-9), begin + 1);
  const ticks = Array.from({length: end - begin + 1}, (_, i) => Number(((begin + i) * by).toPrecision(12)));
  return {ticks, share: value => (value / by - begin) / (end - begin)};
}

function logScale(low, high) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); ++power) {
    ticks.push(...[1, 2, 5].map(factor => Number((factor * 10 ** power).toPrecision(12))));
  }
  const begin = Math.max(0, ticks.findLastIndex(tick => tick <= low));
  const above = ticks.findIndex(tick => tick >= high);
  const used = ticks.slice(begin, Math.max(above < 0 ? ticks.length : above + 1, begin + 2));
  const bottom = Math.log10(used[0]);
  const top = Math.log10(used[used.length - 1]);
  const every = Math.ceil(used.length / 8);
  return {ticks: used.filter((_, i) => i % every === 0),
    share: value => (Math.log10(value) - bottom) / (top - bottom)};
}

class Chart {
  constructor(quantity) {
    this.quantity = quantity;
    this.values = element('ul', {class: 'values'});
    this.plot = element('div', {class: 'plot'});
    this.section = element('section', {class: `${quantity.wide ? 'wide' : ''} ${alone ? 'alone' : 'many'}`,
      'data-quantity': quantity.key, 'aria-labelledby': `chart-${quantity.key}`},
    element('div', {class: 'heading'}, element('h2', {id: `chart-${quantity.key}`}, quantity.name), this.values), this.plot);
    this.plot.addEventListener('pointermove', event => this.point(event));
    this.plot.addEventListener('pointerdown', event => this.point(event));
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  point(event) {
    const inner = this.width - margin.left - margin.right;
    const share = (event.clientX - this.plot.getBoundingClientRect().left - margin.left) / inner;
    moveTo(Math.round(share * lastStep));
  }

  x(at) { return margin.left + at / lastStep * (this.width - margin.left - margin.right); }
  y(value) {
    return this.height - margin.bottom - this.scale.share(value / (this.quantity.scale ?? 1)) *
      (this.height - margin.top - margin.bottom);
  }
  canBeDrawn(value) { return isNumber(value) && (value > 0 || !this.onLogScale()); }
  onLogScale() { return logarithmic && this.quantity.key === 'loss'; }

  draw() {
    this.width = Math.floor(this.plot.clientWidth);
    if (this.width === 0) return;
    this.height = Math.round(Math.min(this.quantity.wide ? 320 : 240, Math.max(190, this.width * 0.55)));
    const drawn = runs.filter(run => run.shown && run[this.quantity.key].some(value => this.canBeDrawn(value)));
    if (drawn.length === 0) {
      this.marks = null;
      const why = runs.some(run => run.shown) ? this.quantity.none ?? 'There is no number yet.' : 'No run is chosen.';
      this.plot.replaceChildren(element('p', {class: 'note'}, why));
      return;
    }
    this.measure(drawn);
    const root = svg('svg', {viewBox: `0 0 ${this.width} ${this.height}`, height: this.height, 'aria-hidden': 'true'});
    this.addAxes(root);
    drawn.forEach(run => this.addRun(root, run));
    this.marks = svg('g', {});
    root.append(this.marks);
    this.plot.replaceChildren(root);
    this.mark();
  }

  measure(drawn) {
    const scale = this.quantity.scale ?? 1;
    let low = Infinity;
    let high = -Infinity;
    drawn.forEach(run => run[this.quantity.key].filter(value => this.canBeDrawn(value)).forEach(value => {
      low = Math.min(low, value / scale);
      high = Math.max(high, value / scale);
    }));
    const wanted = this.quantity.wide ? 5 : 4;
    this.scale = this.onLogScale() ? logScale(low, high)
      : linearScale(Math.min(low, this.quantity.floor ?? low), high, wanted);
  }

  addAxes(root) {
    const scale = this.quantity.scale ?? 1;
    this.scale.ticks.forEach(tick => {
      const at = this.y(tick * scale);
      const label = this.quantity.tick(tick);
      root.append(svg('line', {class: 'grid', x1: margin.left, x2: this.width - margin.right, y1: at, y2: at}));
      const long = label.length > 7;
      root.append(svg('text', {x: long ? 0 : margin.left - 8, y: at + (long ? -5 : 4),
        'text-anchor': long ? 'start' : 'end'}, label));
    });
    const by = Math.max(1, niceStep(lastStep, (this.width - margin.left) / 65));
    for (let tick = 0; tick <= lastStep; tick += by) {
      const fits = this.x(tick) < this.width - 30;
      root.append(svg('text', {x: fits ? this.x(tick) : this.width - margin.right, y: this.height - 6,
        'text-anchor': fits ? 'middle' : 'end'}, count(tick)));
    }
  }

  // Policies that give the same bits give the same lines: those are drawn in turns, so that each is seen.
  dashes(run) {
    const values = run[this.quantity.key];
    const same = runs.filter(other => other.shown && other[this.quantity.key].length === values.length &&
      other[this.quantity.key].every((value, i) => value === values[i]));
    if (same.length === 1) return run.dashed ? {'stroke-dasharray': '6 4'} : {};
    const each = 14;
    return {'stroke-dasharray': `${each} ${each * (same.length - 1)}`, 'stroke-dashoffset': -each * same.indexOf(run)};
  }

  addRun(root, run) {
    const values = run[this.quantity.key];
    const steps = stepsOf(run, this.quantity);
    const style = {stroke: run.colour, 'data-run': run.number, ...this.dashes(run)};
    const mean = smooth && smoothable(run, this.quantity);
    root.append(svg('path', {d: this.line(steps, values), ...style, class: `raw ${mean ? 'behind' : ''}`}));
    if (mean) root.append(svg('path', {class: 'mean', d: this.line(steps, runningMean(values)), ...style}));
    if (!this.quantity.steps || steps.length > 60) return;
    values.forEach((value, i) => {
      if (this.canBeDrawn(value)) {
        root.append(svg('circle', {class: 'dot', cx: this.x(steps[i]), cy: this.y(value), r: 4, fill: run.colour}));
      }
    });
  }

  // Of the points in a column of pixels the lowest and the highest are drawn, so that none sticks out unseen.
  line(steps, values) {
    let path = '';
    let pen = 'M';
    let column = null;
    const put = i => {
      const y = this.y(values[i]).toFixed(1);
      if (this.quantity.stairs && pen === 'L') path += `H${this.x(steps[i]).toFixed(1)}`;
      path += `${pen}${this.x(steps[i]).toFixed(1)},${y}`;
      pen = 'L';
    };
    const flush = () => {
      if (column) [...new Set([column.low, column.high])].sort((a, b) => a - b).forEach(put);
      column = null;
    };
    values.forEach((value, i) => {
      if (!this.canBeDrawn(value)) {
        flush();
        pen = 'M';
        return;
      }
      const pixel = Math.floor(this.x(steps[i]));
      if (column && column.pixel !== pixel) flush();
      column ??= {pixel, low: i, high: i};
      if (value < values[column.low]) column.low = i;
      if (value > values[column.high]) column.high = i;
    });
    flush();
    return path;
  }

  // The cursor, and the numbers at it.
  mark() {
    const at = runs.filter(run => run.shown).map(run => ({run, point: pointAt(run, this.quantity, step)}));
    this.values.replaceChildren(...at.map(({run, point}) => {
      const value = point < 0 ? null : run[this.quantity.key][point];
      const label = isNumber(value) ? this.quantity.text(value) : '–';
      return element('li', {'data-run': run.number, 'data-value': isNumber(value) ? value : '',
        'data-step': point < 0 ? '' : stepsOf(run, this.quantity)[point], title: isNumber(value) ? `${run.name}: ${value}` : run.name},
      lineOf(run), element('b', null, label));
    }));
    if (!this.marks) return;
    const x = this.x(step);
    const dots = at.filter(({run, point}) => point >= 0 && this.canBeDrawn(run[this.quantity.key][point]))
      .map(({run, point}) => svg('circle', {class: 'dot', cx: this.x(stepsOf(run, this.quantity)[point]),
        cy: this.y(run[this.quantity.key][point]), r: 5, fill: run.colour}));
    this.marks.replaceChildren(svg('line', {class: 'cursor', x1: x, x2: x, y1: margin.top - 6, y2: this.height - margin.bottom}),
      ...dots);
  }
}

const lineOf = run => element('span', {class: `line ${run.dashed ? 'dashed' : ''}`, style: `border-color: ${run.colour}`});
const charts = quantities.map(quantity => new Chart(quantity));
const drawAll = () => charts.forEach(chart => { chart.draw(); chart.mark(); });

function moveTo(to) {
  step = Math.max(1, Math.min(lastStep, to));
  const range = byId('step');
  range.value = step;
  const perEpoch = common('steps_per_epoch');
  const epoch = perEpoch > 0 ? `, epoch ${count(Math.ceil(step / perEpoch))}` : '';
  byId('where').replaceChildren(count(step), element('small', null, epoch));
  range.setAttribute('aria-valuetext', `step ${step}${epoch}`);
  charts.forEach(chart => chart.mark());
}

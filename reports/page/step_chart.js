// The chart of live bytes by tag, and the cursor over it.

const chart = byId('chart');
const margin = {left: 58, right: 14, top: 44, bottom: 52};
let size = {width: 0, height: 0};
let byTime = false;
let atStop = peakStop;
let chosen = -1;  // an allocation
let marks = null;  // the group that follows the cursor

// The horizontal axis: a state lasts from edge(state) to edge(state + 1).
const edge = state => byTime ? (state >= stateCount ? stepTime : timeOf(state)) : state;
const across = () => byTime ? stepTime : stateCount;
const innerWidth = () => size.width - margin.left - margin.right;
const innerHeight = () => size.height - margin.top - margin.bottom;
const x = position => margin.left + position / across() * innerWidth();
const xOf = state => (x(edge(state)) + x(edge(state + 1))) / 2;

const highest = total.reduce((most, bytes) => Math.max(most, bytes), 1);
const y = bytes => margin.top + (1 - bytes / (highest * 1.04)) * innerHeight();

// Columns of pixels in which states begin, each with the highest of those and the last.
function pixelColumns() {
  const columns = [];
  for (let state = 0; state < stateCount; ++state) {
    const pixel = Math.floor(x(edge(state)));
    const column = columns[columns.length - 1];
    if (!column || column.pixel !== pixel) {
      columns.push({pixel, high: state, last: state});
    } else {
      if (total[state] > total[column.high]) column.high = state;
      column.last = state;
    }
  }
  return columns;
}

// The states to draw: in each column the highest, then the last. So no peak is lost, and none is thinner than a pixel.
function visibleStates() {
  return pixelColumns().flatMap(({pixel, high, last}, i, columns) => {
    const lasts = high !== last && (i + 1 === columns.length || columns[i + 1].pixel > pixel + 1);
    return [{pixel, state: high}, ...(lasts ? [{pixel: pixel + 1, state: last}] : [])];
  });
}

// Each tag's area reaches down to the axis and the next one covers it, so that no seams show.
function addAreas(root) {
  const points = visibleStates();
  const height = new Float64Array(points.length);
  const paths = stackOrder.map(tag => {
    const parts = points.map(({pixel, state}, i) => {
      height[i] += live[tag][state];
      return `${i === 0 ? 'M' : 'H'}${pixel}${i === 0 ? ',' : 'V'}${y(height[i]).toFixed(1)}`;
    });
    const shape = `${parts.join('')}H${Math.round(x(across()))}V${y(0)}H${margin.left}Z`;
    return svg('path', {class: 'area', d: shape, fill: colour(tag), 'data-tag': data.tags[tag]});
  });
  paths.reverse().forEach(path => root.append(path));
}

function addAxes(root) {
  const step = niceStep(highest / 2 ** 20, size.height > 330 ? 6 : 4);
  for (let tick = 0; tick * 2 ** 20 <= highest * 1.04; tick += step) {
    const at = y(tick * 2 ** 20);
    root.append(svg('line', {class: 'grid', x1: margin.left, x2: size.width - margin.right, y1: at, y2: at}));
    root.append(svg('text', {x: margin.left - 8, y: at + 4, 'text-anchor': 'end'}, count(Number(tick.toPrecision(6)))));
  }
  root.append(svg('text', {x: margin.left - 8, y: margin.top - 14, 'text-anchor': 'end'}, 'MiB'));
  const unit = byTime ? 1000 : 1;
  const along = niceStep(across() / unit, innerWidth() / 110);
  for (let tick = 0; tick * unit <= across(); tick += along) {
    const label = byTime ? `${Number(tick.toPrecision(6))} ms` : count(tick);
    root.append(svg('text', {x: x(tick * unit), y: size.height - margin.bottom + 18, 'text-anchor': 'middle'}, label));
  }
  const name = byTime ? 'time since the step began' : 'allocations and releases, in order';
  root.append(svg('text', {x: size.width - margin.right, y: size.height - margin.bottom + 34, 'text-anchor': 'end'}, name));
}

// Where a backward call is drawn, from its first pixel to its last.
function span({from, to}) {
  const end = to >= eventCount ? size.width - margin.right : x(edge(to));
  return [x(edge(from)), end];
}

function addPhases(root) {
  const label = (name, from, to, width) =>
    root.append(svg('text', {x: from + 6, y: margin.top - 14}, to - from > width ? name : ''));
  let forward = margin.left;
  for (const each of backwards) {
    const [turn, end] = span(each);
    root.append(svg('rect', {class: 'turned', x: turn, y: margin.top - 30, width: end - turn, height: innerHeight() + 30}));
    label('forward →', forward, turn, 60);
    label('backward and update →', turn, end, 120);
    forward = end;
  }
  label('forward →', forward, size.width - margin.right, 60);
}

function addTurns(root) {
  for (const [turn] of backwards.map(span)) {
    root.append(svg('line', {class: 'turn', x1: turn, x2: turn, y1: margin.top - 30, y2: size.height - margin.bottom}));
  }
}

function addPeak(root) {
  const at = xOf(peakState);
  const left = at > size.width / 2;
  root.append(svg('circle', {class: 'peak', cx: at, cy: y(total[peakState]), r: 5}));
  root.append(svg('text', {class: 'peak-label halo', x: at + (left ? -10 : 10), y: y(total[peakState]) + 4,
    'text-anchor': left ? 'end' : 'start'}, `peak ${mebibytes(total[peakState])} MiB`));
}

function draw() {
  const width = Math.floor(chart.clientWidth);
  if (width === 0) return;
  size = {width, height: Math.round(Math.min(540, Math.max(290, width * 0.48)))};
  const root = svg('svg', {viewBox: `0 0 ${size.width} ${size.height}`, height: size.height, 'aria-hidden': 'true'});
  addPhases(root);
  addAxes(root);
  addAreas(root);
  addTurns(root);
  addPeak(root);
  marks = svg('g', {id: 'marks'});
  root.append(marks);
  chart.replaceChildren(root);
  mark();
}

// The cursor, the band that the chosen value takes at it, and below the axis its life with the runs that read it.
function mark() {
  if (!marks) return;
  const state = stops[atStop].state;
  const at = xOf(state);
  const parts = [svg('line', {class: 'cursor', x1: at, x2: at, y1: margin.top - 6, y2: size.height - margin.bottom})];
  const track = {y: size.height - 11, height: 7, rx: 3};
  parts.push(svg('rect', {class: 'life-track', x: margin.left, width: innerWidth(), ...track}));
  if (chosen >= 0) {
    const held = allocations[chosen];
    const [bottom, top] = bandOf(chosen, state);
    parts.push(svg('rect', {class: 'value-band', x: at - 5, width: 10, y: y(top), height: Math.max(2, y(bottom) - y(top))}));
    const begin = x(edge(held.from));
    const end = x(edge(Math.min(held.to, stateCount)));
    parts.push(svg('rect', {class: 'life', x: begin, width: Math.max(2, end - begin), ...track}));
    const reading = held.value >= 0 && !held.gradient ? values[held.value].readers : [];
    reading.map(op => firstRunOf.backward.get(op)).filter(run => run !== undefined).forEach(run => {
      const when = x(byTime ? runs[run].begin : runs[run].event);
      parts.push(svg('line', {class: 'life-read', x1: when, x2: when, y1: size.height - 14, y2: size.height - 1}));
    });
  }
  marks.replaceChildren(...parts);
}

// From how many to how many bytes an allocation reaches in the stack.
function bandOf(number, state) {
  const held = allocations[number];
  let bottom = 0;
  for (const tag of stackOrder) {
    if (tag === held.tag) break;
    bottom += live[tag][state];
  }
  const alive = aliveAt(state, held.tag);
  bottom += olderThanStep(alive, state, held.tag);
  for (const other of alive) {
    if (other === number) break;
    bottom += allocations[other].bytes;
  }
  return [bottom, bottom + held.bytes];
}
const olderThanStep = (alive, state, tag) =>
  live[tag][state] - alive.reduce((sum, number) => sum + allocations[number].bytes, 0);

// The allocation that is drawn so many bytes above the axis; -1 for what is older than the step.
function allocationAt(state, height) {
  let bottom = 0;
  for (const tag of stackOrder) {
    const band = live[tag][state];
    if (height < bottom + band) {
      const alive = aliveAt(state, tag);
      let top = bottom + olderThanStep(alive, state, tag);
      for (const number of alive) {
        if (height < top) return -1;
        top += allocations[number].bytes;
        if (height < top) return number;
      }
      return -1;
    }
    bottom += band;
  }
  return -1;
}

// What to say something about where nobody points: the largest of what the run made, else the largest alive.
function notable(stop) {
  const alive = aliveNow(stop.state);
  const made = alive.filter(number => stop.run >= 0 && allocations[number].run === stop.run);
  return (made.length > 0 ? made : alive)[0] ?? -1;
}
function aliveNow(state) {
  return stackOrder.flatMap(tag => aliveAt(state, tag)).sort((a, b) => allocations[b].bytes - allocations[a].bytes);
}

function moveTo(stop, allocation) {
  atStop = Math.max(0, Math.min(stop, stops.length - 1));
  chosen = allocation ?? notable(stops[atStop]);
  mark();
  tellCursor();
}

// The highest of the states that a column of pixels has to do with: those that begin in it, and the one that lasts into it.
function stateAtPixel(pixel) {
  const columns = pixelColumns();
  const at = Math.max(0, columns.findLastIndex(column => column.pixel <= pixel));
  if (columns[at].pixel !== pixel) return columns[at].last;
  const before = at > 0 ? columns[at - 1].last : columns[at].high;
  return total[before] > total[columns[at].high] ? before : columns[at].high;
}

function pointAt(event) {
  const box = chart.getBoundingClientRect();
  const stop = stopAt(stateAtPixel(Math.floor(event.clientX - box.left)));
  const height = (1 - (event.clientY - box.top - margin.top) / innerHeight()) * highest * 1.04;
  const under = allocationAt(stops[stop].state, height);
  moveTo(stop, under >= 0 ? under : undefined);
}

function chooseNext(step) {
  const alive = aliveNow(stops[atStop].state);
  const at = alive.indexOf(chosen) + step;
  if (alive.length > 0) moveTo(atStop, alive[Math.max(0, Math.min(at, alive.length - 1))]);
}

const turnStops = backwards.map(each => stops.findIndex(stop => stop.run === each.run));
const keys = {
  ArrowLeft: () => moveTo(atStop - 1),
  ArrowRight: () => moveTo(atStop + 1),
  PageUp: () => moveTo(atStop - 50),
  PageDown: () => moveTo(atStop + 50),
  Home: () => moveTo(0),
  End: () => moveTo(stops.length - 1),
  ArrowUp: () => chooseNext(-1),
  ArrowDown: () => chooseNext(1),
  p: () => moveTo(peakStop),
  b: () => moveTo(turnStops.find(stop => stop > atStop) ?? turnStops[0] ?? atStop),
};

function startChart() {
  let pending = null;
  chart.addEventListener('pointermove', event => {
    if (!pending) requestAnimationFrame(() => { pointAt(pending); pending = null; });
    pending = event;
  });
  chart.addEventListener('pointerdown', pointAt);
  chart.addEventListener('keydown', event => {
    const act = keys[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    act();
    event.preventDefault();
  });
  document.querySelectorAll('input[name="axis"]').forEach(input => input.addEventListener('change', () => {
    byTime = input.value === 'time';
    draw();
  }));
  chart.setAttribute('aria-valuemax', stops.length);
  new ResizeObserver(draw).observe(chart);
  draw();
  moveTo(peakStop);
}

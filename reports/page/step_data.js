// The step as the page's data has it, decoded: what is alive when, who runs when, who reads what.

const text = index => data.strings[index];

// From the bottom of the stack: what lasts longest first.
const stackOrder = ['parameter', 'optimiser', 'data', 'gradient', 'activation', 'arena', 'workspace']
  .map(name => data.tags.indexOf(name));
const colour = tag => `var(--${data.tags[tag]})`;

const ops = data.ops.map(([name, block, inputs]) => ({name: text(name), block: text(block), inputs}));
const values = data.values.map(([op, output, form, recipe, readers, solvable]) =>
  ({op, output, form: text(form), recipe: text(recipe), readers, solvable}));
const runs = data.runs.map(([op, name, block, kind, begin, took, operations, bytes, event]) =>
  ({op, name: text(name), block: text(block), kind: data.kinds[kind], begin, took, operations, bytes, event}));
const allocations = data.allocations.map(([tag, bytes, value, gradient, run, op, block]) =>
  ({tag, bytes, value, gradient: gradient === 1, run, op: text(op), block: text(block), from: 0, to: Infinity}));

// State s is what is alive before event s, and therefore after event s - 1.
const eventCount = data.events.what.length;
const stateCount = eventCount + 1;
const live = data.tags.map(() => new Float64Array(stateCount));
const total = new Float64Array(stateCount);

function decodeEvents() {
  const seen = new Uint8Array(allocations.length);
  const now = data.live_before.slice();
  const store = state => {
    now.forEach((bytes, tag) => { live[tag][state] = bytes; });
    total[state] = now.reduce((sum, bytes) => sum + bytes, 0);
  };
  store(0);
  data.events.what.forEach((what, event) => {
    if (Array.isArray(what)) {
      now[what[0]] -= what[1];
    } else if (seen[what]) {
      now[allocations[what].tag] -= allocations[what].bytes;
      allocations[what].to = event + 1;
    } else {
      seen[what] = 1;
      now[allocations[what].tag] += allocations[what].bytes;
      allocations[what].from = event + 1;
    }
    store(event + 1);
  });
}
decodeEvents();

const timeOf = state => state === 0 ? 0 : data.events.at[state - 1];
const stepTime = Math.max(timeOf(eventCount), ...runs.slice(-1).map(run => run.begin + run.took), 1);
const peakState = Math.min(data.peak.event + 1, eventCount);
// Backward calls, each with the update behind it: states from one to before the other, and the first run.
const backwards = data.backwards.map(([from, to, run]) => ({from, to: Math.min(to, eventCount), run}));
const inBackward = state => backwards.some(each => each.from < state && state <= each.to);
// The state in which one begins; of several, that with the most alive.
const turnState = backwards.map(each => each.from).reduce((most, state) => total[state] > total[most] ? state : most,
  backwards.length > 0 ? backwards[0].from : eventCount);

// Where the cursor can stand: one stop for every run, at its highest moment, and one for every stretch between runs.
function findStops() {
  const best = new Int32Array(runs.length).fill(-1);
  const found = [];
  let between = null;
  data.events.run.forEach((run, event) => {
    const state = event + 1;
    if (run >= 0) {
      between = null;
      if (best[run] < 0 || total[state] > total[best[run]]) best[run] = state;
    } else if (between === null) {
      between = {run: -1, state};
      found.push(between);
    } else if (total[state] > total[between.state]) {
      between.state = state;
    }
  });
  runs.forEach((run, index) => found.push({run: index, state: best[index] < 0 ? run.event : best[index]}));
  return found.sort((a, b) => a.state - b.state || a.run - b.run);
}
const stops = findStops();

// Of the stops at this state or next to it, the one that stands for it.
function stopAt(state) {
  const run = state > 0 ? data.events.run[state - 1] : -1;
  let nearest = 0;
  for (let i = 0; i < stops.length; ++i) {
    if (run >= 0 && stops[i].run === run) return i;
    if (Math.abs(stops[i].state - state) < Math.abs(stops[nearest].state - state)) nearest = i;
  }
  return nearest;
}
const peakStop = stopAt(peakState);

const firstRunOf = {forward: new Map(), backward: new Map()};
runs.forEach((run, index) => {
  const first = firstRunOf[run.kind];
  if (first && run.op >= 0 && !first.has(run.op)) first.set(run.op, index);
});
const readInForward = new Map();
ops.forEach((op, number) => op.inputs.forEach(value => {
  if (!readInForward.has(value)) readInForward.set(value, []);
  readInForward.get(value).push(number);
}));

const duration = microseconds => microseconds >= 1000 ? `${(microseconds / 1000).toFixed(microseconds >= 1e5 ? 0 : 1)} ms`
  : `${microseconds} µs`;
function operations(number) {
  const scale = [[1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e3, 'k']].find(([size]) => number >= size);
  return scale ? `${(number / scale[0]).toPrecision(3)} ${scale[1]}` : String(number);
}

const meaningOf = {
  keep: 'the bytes stay until they are read',
  replay: 'its op runs again before it is read',
  invert: 'solved from what the coupling made',
};

function readersText(readers, kind) {
  if (readers.length === 0) return '';
  const named = readers.slice(0, 3).map(op => {
    const run = firstRunOf[kind].get(op);
    return `${ops[op].name} in ${ops[op].block}${run === undefined ? '' : ` (run ${count(run + 1)})`}`;
  });
  const more = readers.length > 3 ? `, and ${count(readers.length - 3)} more` : '';
  return named.join(', ') + more;
}

// An allocation in words, as pairs of a term and what is to be said of it.
function describe(number) {
  const held = allocations[number];
  const value = held.value >= 0 ? values[held.value] : null;
  const rows = [['What', contentOf(held, value)], ['Bytes', `${mebibytes(held.bytes)} MiB (${exactly(held.bytes)})`],
    ['Of', `${held.op} in ${held.block}`]];
  if (value && !held.gradient) {
    rows.push(['Recipe', recipeText(value)]);
    const forward = readersText(readInForward.get(held.value) ?? [], 'forward');
    const backward = readersText(value.readers, 'backward');
    if (forward) rows.push(['Read forward', forward]);
    rows.push(['Read backward', backward || 'never']);
  }
  rows.push(['Lives', lifeText(held)]);
  return rows;
}
function contentOf(held, value) {
  if (!value) return data.tags[held.tag];
  const which = value.op < 0 ? 'a leaf' : value.output > 0 ? `output ${value.output}` : 'the output';
  return `${held.gradient ? 'gradient of ' : ''}${which}, ${value.form}`;
}
function recipeText(value) {
  if (value.recipe === '') return 'none: a leaf';
  return meaningOf[value.recipe] ? `${value.recipe}: ${meaningOf[value.recipe]}` : value.recipe;
}
function lastRunBefore(event) {
  for (let i = event; i >= 0; --i) {
    if (data.events.run[i] >= 0) return `run ${count(data.events.run[i] + 1)}`;
  }
  return 'the beginning';
}
function lifeText(held) {
  const begin = held.run >= 0 ? `from run ${count(held.run + 1)}` : `from after ${lastRunBefore(held.from - 1)}`;
  if (held.to === Infinity) return `${begin}, beyond the end of the step`;
  const end = data.events.run[held.to - 1];
  if (end === held.run && end >= 0) return `in run ${count(end + 1)} alone`;
  return end >= 0 ? `${begin} into run ${count(end + 1)}` : `${begin} until after ${lastRunBefore(held.to - 1)}`;
}

// What is alive at a state: allocations of one tag, oldest first.
function aliveAt(state, tag) {
  const found = [];
  allocations.forEach((held, number) => {
    if (held.tag === tag && held.from <= state && state < held.to) found.push(number);
  });
  return found;
}

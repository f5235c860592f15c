// The runs as the page's data has them, and what the charts show of them.

const runs = data.runs.map((run, number) => ({
  ...run,
  number,
  shown: true,
  colour: `var(--run-${number % 8})`,
  dashed: number % 16 >= 8,
}));
const alone = runs.length === 1;
const first = runs[0];
const lastStep = Math.max(1, ...runs.map(run => run.steps[run.steps.length - 1] ?? 0), ...runs.flatMap(run => run.evaluated));

const isNumber = number => typeof number === 'number';
function round(number, digits) {
  const rounded = Number(number.toPrecision(digits));
  return rounded !== 0 && Math.abs(rounded) < 1e-4 ? rounded.toExponential() : String(rounded);
}
const words = name => name.charAt(0).toUpperCase() + name.slice(1);
// What all runs agree on; '' where they differ.
const common = key => runs.every(run => run.facts[key] === first.facts[key]) ? first.facts[key] : '';
const unit = common('unit') || 'samples';
const metric = common('metric') || 'metric';
const inPercent = runs.every(run => run.facts.metric_is_share);
const metricText = share => inPercent ? `${(share * 100).toFixed(2)} %` : round(share, 5);

// The quantities: where a run has them, how they are written, on the axis and at the cursor; where the axis begins.
const quantities = [
  {key: 'loss', name: 'Loss', wide: true, tick: number => round(number, 4), text: number => round(number, 5)},
  {key: 'metric', name: `Test ${metric}`, wide: true, steps: 'evaluated', text: metricText,
    tick: inPercent ? number => `${round(number * 100, 4)} %` : number => round(number, 4),
    none: 'Nothing has been evaluated yet.'},
  {key: 'learning_rate', name: 'Learning rate', floor: 0, stairs: true, tick: number => round(number, 3), text: number => round(number, 4)},
  {key: 'rate', name: `${words(unit)} per second`, floor: 0, smoothed: true, tick: count,
    text: number => number >= 100 ? count(Math.round(number)) : number >= 1 ? number.toFixed(1) : number.toPrecision(3)},
  {key: 'peak', name: 'Peak memory, MiB', floor: 0, scale: 2 ** 20, tick: count, text: mebibytes},
];
quantities[0].smoothed = true;

const stepsOf = (run, quantity) => run[quantity.steps ?? 'steps'];

// The number of the last point up to a step; -1 before the first and behind the end of the run.
function pointAt(run, quantity, step) {
  const steps = stepsOf(run, quantity);
  if (!quantity.steps && step > steps[steps.length - 1]) return -1;
  let low = 0;
  let high = steps.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] <= step) low = middle + 1;
    else high = middle;
  }
  // A point of several steps is named after the last of them.
  if (!quantity.steps && steps[low - 1] !== step && low < steps.length && run.steps_of_a_point > 1) return low;
  return low - 1;
}

// The mean of the numbers around each point: of a twentieth of the run, of less at its ends.
function runningMean(values) {
  const half = Math.floor(values.length / 40);
  const sums = new Float64Array(values.length + 1);
  const counts = new Int32Array(values.length + 1);
  values.forEach((value, i) => {
    sums[i + 1] = sums[i] + (isNumber(value) ? value : 0);
    counts[i + 1] = counts[i] + (isNumber(value) ? 1 : 0);
  });
  return values.map((_, i) => {
    const from = Math.max(0, i - half);
    const to = Math.min(values.length, i + half + 1);
    return counts[to] > counts[from] ? (sums[to] - sums[from]) / (counts[to] - counts[from]) : null;
  });
}
const smoothable = (run, quantity) => Boolean(quantity.smoothed) && run[quantity.key].length >= 80;

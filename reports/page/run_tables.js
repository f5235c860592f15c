// Around the charts: what is known of the runs, the table of several, the controls.

const parts = {
  model: facts => facts.model,
  policy: facts => facts.policy && `under ${facts.policy}`,
  batch_size: facts => facts.batch_size > 0 && `batches of ${count(facts.batch_size)}`,
  data: facts => facts.data,
  device: facts => facts.device,
};
const known = (facts, wanted) => Object.keys(parts).filter(wanted).map(key => parts[key](facts)).filter(Boolean).join(', ');
const written = (value, text) => isNumber(value) ? element('span', {'data-value': value, title: String(value)}, text(value)) : '–';
const rateText = quantities.find(quantity => quantity.key === 'rate').text;

function showTitle() {
  byId('title').textContent = alone ? 'Training run' : `${count(runs.length)} training runs`;
  byId('subtitle').textContent = known(first.facts, common);
}

function showFacts() {
  byId('facts').hidden = !alone;
  const {summary, facts} = first;
  const rate = first.learning_rate[first.learning_rate.length - 1];
  const tiles = [
    ['loss', 'Loss', written(summary.loss, number => round(number, 4)), 'in the last step'],
    ['metric', `Test ${metric}`, written(summary.metric, metricText),
      isNumber(summary.best) ? `best ${metricText(summary.best)}, at step ${count(summary.best_step)}` : 'not measured yet'],
    ['steps', 'Steps', written(summary.steps, count), facts.steps > summary.steps ? `of ${count(facts.steps)}` : 'all of them'],
    ['rate', `${words(unit)} per second`, written(summary.rate, rateText), 'median of the steps'],
    ['peak', 'Peak memory', sized(summary.peak, ' MiB'), 'the highest of the steps'],
    ['learning_rate', 'Learning rate', written(rate, number => round(number, 4)), 'in the last step'],
  ];
  byId('facts').append(...tiles.map(([key, term, big, more]) => element('div', {'data-fact': key},
    element('dt', null, term), element('dd', {class: 'big'}, big), element('dd', {class: 'more'}, more))));
}

function runRow(run) {
  const {summary} = run;
  const box = element('input', {type: 'checkbox', checked: ''});
  const row = element('tr', {'data-run': run.number},
    element('th', {scope: 'row'}, element('label', null, box, lineOf(run),
      element('span', null, element('b', null, breakable(run.name)), element('small', null, breakable(known(run.facts, key => !common(key))))))),
    element('td', {class: 'number wide-only'}, written(summary.steps, count)),
    element('td', {class: 'number'}, written(summary.loss, number => round(number, 4))),
    element('td', {class: 'number'}, written(summary.metric, metricText)),
    element('td', {class: 'number wide-only'}, written(summary.best, metricText)),
    element('td', {class: 'number'}, written(summary.rate, rateText)),
    element('td', {class: 'number'}, sized(summary.peak)));
  box.addEventListener('change', () => {
    run.shown = box.checked;
    row.classList.toggle('off', !run.shown);
    drawAll();
  });
  return row;
}

function showRuns() {
  byId('runs').hidden = alone;
  const table = byId('runs').querySelector('table');
  const heads = [['Run', ''], ['Steps', 'number wide-only'], ['Loss', 'number'], [words(metric), 'number'],
    [`Best ${metric}`, 'number wide-only'], [`${words(unit)}/s`, 'number'], ['Peak, MiB', 'number']];
  table.tHead.rows[0].append(...heads.map(([name, kind]) => element('th', {scope: 'col', class: kind}, name)));
  table.tBodies[0].append(...runs.map(runRow));
}

function startControls() {
  const range = byId('step');
  range.min = 1;
  range.max = lastStep;
  range.addEventListener('input', () => moveTo(Number(range.value)));
  document.querySelectorAll('input[name="scale"]').forEach(input => input.addEventListener('change', () => {
    logarithmic = input.value === 'log';
    drawAll();
  }));
  byId('smoothing').hidden = !smooth;
  byId('smooth').checked = smooth;
  byId('smooth').addEventListener('change', event => {
    smooth = event.target.checked;
    drawAll();
  });
  const coarse = runs.filter(run => run.steps_of_a_point > 1);
  byId('points').hidden = coarse.length === 0;
  byId('points').textContent = coarse.map(run => `Each point of ${alone ? 'the run' : run.name} is for ` +
    `${count(run.steps_of_a_point)} steps: the mean of loss and ${unit} per second, the highest peak, the last learning rate.`).join(' ');
}

showTitle();
showFacts();
showRuns();
startControls();
byId('charts').append(...charts.map(chart => chart.section));
drawAll();
moveTo(lastStep);

// Everything around the chart: the summary, what is at the cursor, owners, policies, savings.

const swatch = tag => element('span', {class: 'swatch', style: `background: ${colour(tag)}`});
const times = factor => factor > 0 ? `× ${factor.toFixed(2)}` : '–';
const stackBar = (byTag, most) => stackOrder.filter(tag => byTag[tag] > 0).map(tag => element('span', {
  style: `width: ${byTag[tag] / most * 100}%; background: ${colour(tag)}`,
  title: `${data.tags[tag]}: ${mebibytes(byTag[tag])} MiB (${exactly(byTag[tag])})`,
}));

const facts = data.facts;
const runText = stop => stop.run < 0 ? 'between runs'
  : `${runs[stop.run].kind} of ${runs[stop.run].name} in ${runs[stop.run].block}`;

function showFacts() {
  byId('subtitle').textContent = `${facts.model} under ${facts.policy}, batch of ${count(facts.batch_size)}, ` +
    `${facts.data}, ${facts.device}, step ${count(facts.step)}`;
  const peak = data.peak.bytes;
  const again = runs.filter(run => ['replay', 'solve', 'fetch'].includes(run.kind));
  const sum = (list, key) => list.reduce((all, run) => all + run[key], 0);
  const predicted = facts.predicted_peak === peak ? 'as predicted, to the byte'
    : facts.predicted_peak > 0 ? `predicted ${mebibytes(facts.predicted_peak)} MiB` : '';
  const tiles = [
    ['Peak', element('span', {id: 'peak'}, sized(peak, ' MiB')), predicted],
    ['Reached in', runs.length > 0 && stops[peakStop].run >= 0 ? runs[stops[peakStop].run].kind : 'between runs',
      runs.length > 0 && stops[peakStop].run >= 0
        && `${runs[stops[peakStop].run].name} in ${runs[stops[peakStop].run].block}`],
    ['Kept for backward', sized(total[turnState], ' MiB'), `${backwards.length > 1 ? 'at most, when a' : 'alive when'} backward begins, ${percent(total[turnState] / peak)} of the peak`],
    ['Before the step', sized(total[0], ' MiB'), `${plural(facts.parameters, 'parameter')}`],
    ['Runs of ops', count(runs.length), again.length > 0
      ? `${plural(again.length, 'time')} again, ${percent(sum(again, 'operations') / Math.max(1, sum(runs, 'operations')))} of the operations`
      : 'none of them again'],
    ['Step', duration(stepTime), `${operations(sum(runs, 'operations'))} operations`],
  ];
  byId('facts').append(...tiles.map(([term, big, more]) => element('div', null, element('dt', null, term),
    element('dd', {class: 'big'}, big), more && element('dd', {class: 'more'}, breakable(more)))));
}

function showLegend() {
  byId('legend').append(...stackOrder.filter(tag => live[tag].some(bytes => bytes > 0))
    .map(tag => element('li', null, swatch(tag), data.tags[tag])));
}

function tellCursor() {
  const stop = stops[atStop];
  const {state} = stop;
  const run = stop.run >= 0 ? runs[stop.run] : null;
  byId('where').textContent = run ? `Run ${count(stop.run + 1)} of ${count(runs.length)}` : 'Between runs';
  byId('run').replaceChildren(...pairs(run ? [['Op', run.name], ['Block', run.block], ['Phase', run.kind],
    ['Took', `${duration(run.took)}, ${operations(run.operations)} operations`]]
    : [['Phase', inBackward(state) ? 'backward and update' : 'forward']]));
  const held = chosen >= 0 ? allocations[chosen] : null;
  byId('live').tBodies[0].replaceChildren(...[...stackOrder].reverse()
    .filter(tag => live[tag].some(bytes => bytes > 0))
    .map(tag => element('tr', {class: held && held.tag === tag ? 'chosen' : '', 'data-tag': data.tags[tag]},
      element('th', {scope: 'row'}, swatch(tag), data.tags[tag]), element('td', null, sized(live[tag][state])),
      element('td', null, sized(data.peak.by_tag[tag])))));
  byId('live').tFoot.replaceChildren(element('tr', null, element('th', {scope: 'row'}, 'all'),
    element('td', {id: 'here'}, sized(total[state])), element('td', null, sized(data.peak.bytes))));
  byId('value').replaceChildren(...pairs(held ? describe(chosen) : [['What', 'older than the step']]));
  chart.setAttribute('aria-valuenow', atStop + 1);
  chart.setAttribute('aria-valuetext', `${run ? `run ${stop.run + 1} of ${runs.length}: ` : ''}${runText(stop)}, ` +
    `${mebibytes(total[state])} MiB`);
  chart.dataset.run = stop.run;
}

function detailOf(owned) {
  if (owned.length === 0) {
    return element('p', {class: 'note'}, 'Held since before the step: single values were not seen.');
  }
  const shown = owned.slice(0, 60);
  const row = number => {
    const held = allocations[number];
    const value = held.value >= 0 ? values[held.value] : null;
    const back = value && !held.gradient;
    return element('tr', null, element('td', null, swatch(held.tag), contentOf(held, value)),
      element('td', {class: 'number'}, sized(held.bytes)), element('td', null, back ? recipeText(value) : '–'),
      element('td', null, back ? readersText(value.readers, 'backward') || 'never' : '–'));
  };
  return [element('table', null,
    element('thead', null, element('tr', null, ...['Value', 'MiB', 'Recipe', 'Read in backward by'].map((name, i) =>
      element('th', {scope: 'col', class: i === 1 ? 'number' : ''}, name)))),
    element('tbody', null, shown.map(row))),
  owned.length > shown.length && element('p', {class: 'note'}, `and ${count(owned.length - shown.length)} smaller ones`)];
}

function ownerRow([block, op, bytes, owned], index) {
  const button = element('button', {type: 'button', class: 'opens', 'aria-expanded': 'false',
    'aria-controls': `owner-${index}`}, breakable(text(block)));
  const byTag = data.tags.map((_, tag) => owned.filter(number => allocations[number].tag === tag)
    .reduce((sum, number) => sum + allocations[number].bytes, 0));
  if (owned.length === 0) byTag[data.tags.indexOf(text(op))] = bytes;
  const row = element('tr', {class: 'owner'}, element('th', {scope: 'row'}, button), element('td', null, breakable(text(op))),
    element('td', {class: 'number'}, sized(bytes)), element('td', {class: 'share'}, element('div', {class: 'meter'},
      element('i', null, stackBar(byTag, data.owners[0][2])), element('b', null, percent(bytes / data.peak.bytes)))));
  const detail = element('tr', {class: 'detail', id: `owner-${index}`, hidden: ''});
  button.addEventListener('click', () => {
    if (!detail.hasChildNodes()) detail.append(element('td', {colspan: 4}, detailOf(owned)));
    detail.hidden = !detail.hidden;
    button.setAttribute('aria-expanded', String(!detail.hidden));
  });
  return [row, detail];
}

function showOwners() {
  const body = byId('owners').tBodies[0];
  const button = byId('all-owners');
  const first = 14;
  body.append(...data.owners.slice(0, first).flatMap(ownerRow));
  const rest = data.owners.slice(first);
  const restBytes = rest.reduce((sum, owner) => sum + owner[2], 0);
  const foot = element('tr', null, element('th', {scope: 'row', colspan: 2}), element('td', {class: 'number'}),
    element('td', {class: 'share'}));
  const fill = (what, bytes) => {
    foot.cells[0].textContent = what;
    foot.cells[1].replaceChildren(sized(bytes));
    foot.cells[2].replaceChildren(element('div', {class: 'meter'}, element('i', {style: 'visibility: hidden'}),
      element('b', null, percent(bytes / data.peak.bytes))));
  };
  byId('owners').tFoot.append(foot);
  if (rest.length === 0) {
    button.hidden = true;
    fill('All owners', data.peak.bytes);
    return;
  }
  fill(`${plural(rest.length, 'smaller owner')}`, restBytes);
  button.textContent = `Show all ${count(data.owners.length)} owners`;
  button.addEventListener('click', () => {
    body.append(...rest.flatMap((owner, i) => ownerRow(owner, first + i)));
    fill('All owners', data.peak.bytes);
    button.hidden = true;
    body.rows[2 * first].querySelector('button').focus();
  });
}

function showPolicies() {
  const list = data.policies;
  if (list.length === 0) {
    byId('policies-note').textContent = 'No forecasts were made for this run.';
    byId('bars').hidden = byId('policies').hidden = true;
    return;
  }
  const most = Math.max(...list.map(each => each.peak));
  const mine = each => each.policy === facts.policy;
  byId('bars').setAttribute('aria-label', `Peak by policy: ${list.map(each => `${each.policy} ${mebibytes(each.peak)} MiB`).join(', ')}`);
  byId('bars').append(...list.flatMap(each => [element('span', {class: mine(each) ? 'mine' : ''}, each.policy),
    element('div', {class: 'bar'}, stackBar(each.by_tag, most)), element('span', {class: 'number'}, sized(each.peak))]));
  byId('policies').tBodies[0].append(...list.map(each => element('tr', {'data-policy': each.policy},
    element('th', {scope: 'row', class: mine(each) ? 'mine' : ''}, each.policy, mine(each) && element('small', null, ' this run')),
    element('td', {class: 'number'}, sized(each.peak)), element('td', {class: 'number'}, percent(each.peak / most)),
    element('td', {class: 'number', title: `${count(each.operations)} operations`}, (each.operations / 1e9).toPrecision(4)),
    element('td', {class: 'number'}, times(each.time_factor)))));
}

function showSavings() {
  const list = data.savings;
  byId('savings').hidden = list.length === 0;
  byId('savings-note').textContent = list.length === 0 ? 'No plan was made for this run, so there is nothing to propose.'
    : 'Of the peak of this run; time is predicted, and against now.';
  byId('savings').tBodies[0].append(...list.map(each => element('tr', null,
    element('th', {scope: 'row'}, percent(each.fraction)), element('td', null, each.change),
    element('td', {class: 'number'}, sized(each.peak)), element('td', {class: 'number'}, times(each.time_factor)))));
}

showFacts();
showLegend();
showOwners();
showPolicies();
showSavings();
startChart();

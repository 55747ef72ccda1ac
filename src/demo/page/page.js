import { mountUppy, senders } from './clients.js';
import { forgetTarget, sampleFile, targetOf } from './content.js';
import { connectControls } from './controls.js';
import { observeRequests } from './observe.js';
import { Run } from './run.js';
import { formatBytes, view } from './view.js';

const byId = (id) => document.getElementById(id);
const form = byId('form');
let run;
let file;
let uppy;
let stopping;

observeRequests((event) => {
  if (run && !run.isOver) run.observe(event);
});

const isRunning = () => run !== undefined && !run.isOver;
const chosenClient = () => form.elements.client.value;

function pick(picked) {
  if (!picked) return;
  file = picked;
  byId('file-name').textContent = picked.name;
  byId('file-hint').textContent = formatBytes(picked.size);
  update();
}

/** Shows what can be done now. */
function update() {
  const isUppy = chosenClient() === 'uppy';
  for (const radio of form.elements.client) radio.disabled = isRunning();
  byId('plain-picker').hidden = isUppy;
  byId('uppy-picker').hidden = !isUppy;
  for (const id of ['sample', 'sample-size', 'file']) byId(id).disabled = isRunning();
  byId('send').disabled = isRunning() || !file;
  byId('stop').hidden = !isRunning();
  if (!isRunning() && view.state !== 'done' && view.state !== 'failed') view.state = file ? 'ready' : 'idle';
}

/** Begins to watch an upload that a client is about to make. Gives its path. */
function begin(client, sent) {
  const target = targetOf(client, sent);
  run = new Run(sent, target);
  update();
  return target;
}

async function finish(client, sent, { answer, error }) {
  if (!isRunning()) return;
  if (answer) {
    forgetTarget(client, sent);
    await run.end(answer);
  } else run.fail(error ? `The client gave up: ${error.message}` : 'Stopped.');
  update();
}

async function send(client, sent) {
  stopping = new AbortController();
  const target = begin(client, sent);
  try {
    await finish(client, sent, { answer: await senders[client](sent, target, stopping.signal) });
  } catch (error) {
    await finish(client, sent, stopping.signal.aborted ? {} : { error });
  }
}

async function showUppy() {
  let sent;
  uppy ??= mountUppy(byId('uppy-picker'), {
    begin: (picked) => begin('uppy', (sent = picked)),
    end: (outcome) => void finish('uppy', sent, outcome),
  });
  return uppy;
}

form.addEventListener('submit', (event) => {
  event.preventDefault();
  if (file && !isRunning() && chosenClient() !== 'uppy') void send(chosenClient(), file);
});
form.addEventListener('change', ({ target }) => {
  if (target.name !== 'client') return;
  update();
  if (target.value === 'uppy') void showUppy();
});
byId('file').addEventListener('change', ({ target }) => pick(target.files[0]));
byId('stop').addEventListener('click', () => stopping?.abort());
byId('sample').addEventListener('click', async () => {
  const sample = sampleFile(Number(byId('sample-size').value));
  if (chosenClient() === 'uppy') (await showUppy()).add(sample);
  else pick(sample);
});
for (const [type, isOver] of [
  ['dragenter', true],
  ['dragleave', false],
  ['drop', false],
])
  byId('drop').addEventListener(type, () => byId('drop').classList.toggle('over', isOver));

let line = 'up';

function hear(event) {
  if (event.kind === 'state') {
    line = event.line;
    view.proxy(event.proxy);
    if (line === 'down') view.line('down');
    else if (!isRunning()) view.line('up');
    setUsable('kill', event.proxy === 'up');
    setUsable('cut', event.line === 'up');
    byId('rate').value = String(event.rate);
  } else if (isRunning()) run.hear(event);
}

/** A button that is disabled for two seconds would lose the focus of the keyboard, so it only says that it does nothing. */
function setUsable(id, isUsable) {
  byId(id).setAttribute('aria-disabled', String(!isUsable));
}

function isGone(gone) {
  for (const id of ['cut', 'kill', 'rate']) byId(id).disabled = gone;
  if (gone && !isRunning()) view.status = 'The demo does not answer. Does it still run?';
  else if (!gone && !isRunning() && view.state === 'idle') view.status = 'Nothing is being sent.';
}

const { press, version } = await connectControls({
  tell: hear,
  onGone: () => isGone(true),
  onBack: () => isGone(false),
});
byId('version').textContent = `rufh-proxy ${version}`;
byId('plugs-note').hidden = press !== undefined;
if (press) {
  const pressed = (path) => press(path).catch((error) => (view.status = error.message));
  for (const id of ['cut', 'kill']) {
    byId(id).addEventListener('click', ({ currentTarget }) => {
      if (currentTarget.getAttribute('aria-disabled') !== 'true') void pressed(`/${id}`);
    });
  }
  byId('rate').addEventListener('change', ({ target }) => void pressed(`/rate?bytes_per_second=${target.value}`));
}
update();
if (chosenClient() === 'uppy') void showUppy();

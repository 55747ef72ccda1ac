const byId = (id) => document.getElementById(id);
const MIB = 1024 * 1024;
const MOST_LINES = 200;

export function formatBytes(count) {
  if (count < 1024) return `${count} B`;
  if (count < MIB) return `${(count / 1024).toFixed(1)} KiB`;
  return `${(count / MIB).toFixed(1)} MiB`;
}

/** Everything on the page that shows how an upload goes. */
export const view = {
  /** `idle`, `ready`, `sending`, `waiting`, `done` or `failed`; tests and the style sheet read it too. */
  set state(state) {
    document.body.dataset.state = state;
  },

  get state() {
    return document.body.dataset.state;
  },

  set status(text) {
    const status = byId('status');
    // Screen readers read every change, so nothing is written twice.
    if (status.textContent !== text) status.textContent = text;
  },

  line(is) {
    byId('line').dataset.is = is;
    byId('line-state').textContent = { up: 'connected', sending: 'sending', down: 'broken' }[is];
  },

  proxy(is) {
    byId('proxy').dataset.is = is;
    byId('proxy-state').textContent = is === 'up' ? 'running' : 'killed';
  },

  api(is, text) {
    byId('api').dataset.is = is;
    byId('api-state').textContent = text;
  },

  progress({ safe, sent, size, again }) {
    const progress = byId('progress');
    progress.max = Math.max(size, 1);
    progress.value = size === 0 ? 1 : safe;
    byId('sent-bar').style.width = `${(100 * Math.min(sent, size)) / Math.max(size, 1)}%`;
    byId('safe').textContent = formatBytes(safe);
    byId('sent').textContent = formatBytes(sent);
    byId('size').textContent = formatBytes(size);
    byId('again').textContent = formatBytes(again);
  },

  mark(share, sign) {
    const mark = document.createElement('span');
    mark.style.left = `${100 * Math.min(share, 1)}%`;
    mark.dataset.sign = sign;
    byId('marks').append(mark);
  },

  /** Empties everything for a new upload. */
  clear() {
    byId('marks').replaceChildren();
    byId('log').replaceChildren();
    byId('proof').hidden = true;
    this.api('idle', 'got nothing yet');
  },

  /** Adds a line; the same line again in a row is counted. */
  log(seconds, { sign, text, tone = '' }) {
    const log = byId('log');
    const last = log.lastElementChild;
    if (last?.dataset.text === text) {
      last.dataset.count = Number(last.dataset.count) + 1;
      last.lastElementChild.textContent = `${text} (${last.dataset.count} times)`;
      return;
    }
    log.querySelector('.empty')?.remove();
    const line = document.createElement('li');
    Object.assign(line.dataset, { text, count: 1 });
    line.append(
      element('time', '', `${seconds.toFixed(1)} s`),
      element('span', `sign ${tone}`, sign),
      element('span', tone, text),
    );
    line.children[1].setAttribute('aria-hidden', 'true');
    log.append(line);
    if (log.children.length > MOST_LINES) log.firstElementChild.remove();
  },

  /** Shows what the API got. `facts` are rows of a name, a text and whether it holds. */
  prove(title, facts, holds) {
    byId('proof-title').textContent = title;
    byId('proof').className = holds ? 'proof' : 'proof bad';
    byId('proof-list').replaceChildren(
      ...facts.flatMap(({ name, text, isHash }) => [
        element('dt', '', name),
        element('dd', isHash ? 'hash' : '', text),
      ]),
    );
    byId('proof').hidden = false;
  },
};

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

/** Only there can a browser reach the buttons' listener. */
const THIS_MACHINE = ['127.0.0.1', 'localhost'];

/**
 * Connects to the listener of the buttons and calls `tell` with the events of the demo. Gives a function that presses a
 * button; undefined on other machines. `onGone` is called when the demo has ended.
 */
export async function connectControls({ tell, onGone, onBack }) {
  const { controlsPort, version } = await (await fetch('settings.json')).json();
  if (!controlsPort || !THIS_MACHINE.includes(location.hostname)) return { version };
  const base = `http://${location.hostname}:${controlsPort}`;
  const events = new EventSource(`${base}/events`);
  events.onmessage = ({ data }) => tell(JSON.parse(data));
  events.onerror = onGone;
  events.onopen = onBack;
  const press = async (path) => {
    const response = await fetch(base + path, { method: 'POST' });
    if (!response.ok) throw new Error(await response.text());
  };
  return { version, press };
}

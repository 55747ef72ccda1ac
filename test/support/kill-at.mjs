// Loaded into the built proxy by the boundary tests: ends the process, as `kill -9` would, at one step of the record.
// KILL_AT names the store's verb and the side of it: "recordAnswer:after".
import { EmbeddedStore } from '../../dist/store/embedded/embedded-store.js';

const [verb, side] = (process.env.KILL_AT ?? '').split(':');
const steps = EmbeddedStore.prototype;
const step = steps[verb];
if (!step) throw new Error(`the store has no ${verb}`);

/** Of the commits only the one that makes an upload complete is a boundary. */
const isMeant = (args) => verb !== 'commit' || args[1].complete !== undefined;
const die = () => process.kill(process.pid, 'SIGKILL');

steps[verb] = async function (...args) {
  if (side === 'before' && isMeant(args)) die();
  const result = await step.apply(this, args);
  if (side === 'after' && isMeant(args)) die();
  return result;
};

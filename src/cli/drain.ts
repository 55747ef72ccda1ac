import { setTimeout as sleep } from 'node:timers/promises';
import { type Command, InvalidArgumentError } from 'commander';
import { type AdminClient, type AdminFlags, fail, type Json, withAdmin, withClient } from './admin-client.js';
import { bytes } from './format-uploads.js';

const EXAMPLES = `
A node that drains takes no new uploads and is not ready any more; those that it has go on. With --move it gives them to
the other nodes of its cluster, the command waits until none is left, and then the node can be stopped for good. Without
"cluster" in its configuration there is nobody to give them to; with "spool.shared" there is no need.

Examples:
  $ rufh-proxy drain --admin http://10.0.0.5:9090
  $ rufh-proxy drain --move --timeout 600

Ends with 0 when it is done, 1 when uploads are left, 2 when the admin listener could not be reached.`;

/** `drain [--move]`. */
export function addDrainCommand(root: Command): void {
  withAdmin(root.command('drain'))
    .description('have a running proxy take no new uploads; with --move, give those it has to other nodes')
    .option('--move', 'give its uploads to other nodes, and wait until none is left')
    .option('--timeout <seconds>', 'wait no longer than this for --move; the proxy goes on with it', seconds)
    .option('--json', 'only the end, as JSON')
    .addHelpText('after', EXAMPLES)
    .action((options: DrainCommandOptions & AdminFlags) => withClient(options, (client) => drain(client, options)));
}

function seconds(text: string): number {
  if (/^[1-9]\d{0,6}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('It is a whole number of seconds above 0.');
}

interface DrainCommandOptions {
  readonly move?: boolean;
  /** In seconds. */
  readonly timeout?: number;
  readonly json?: boolean;
}

/** What the admin listener tells of a node on its way out. */
interface DrainStatus {
  readonly draining: boolean;
  readonly move?: {
    readonly moved: number;
    readonly bytes: number;
    readonly left?: number;
    readonly isDone: boolean;
    readonly problem?: string;
    readonly isImpossible?: boolean;
    readonly remark?: string;
  };
}

const LOOK_EVERY_MS = 500;

/** Sends a node away, and with `move` waits until it has nothing left. Says each step once. */
async function drain(client: AdminClient, { move = false, timeout, json = false }: DrainCommandOptions): Promise<void> {
  const until = timeout === undefined ? Infinity : performance.now() + timeout * 1000;
  const say = json ? () => undefined : once((line) => process.stdout.write(`${line}\n`));
  let told = (await client.ask('POST', `/drain?move=${move}`, isDrain)) as DrainStatus;
  say('it takes no new uploads any more');
  while (move && told.move && mayGoOn(told.move) && performance.now() < until) {
    if (told.move.left !== undefined) say(words(told.move));
    await sleep(LOOK_EVERY_MS);
    told = (await client.ask('GET', '/drain', isDrain)) as DrainStatus;
  }
  if (json) process.stdout.write(`${JSON.stringify(told)}\n`);
  else if (told.move && move) say(words(told.move));
  if (!move || told.move?.isDone) return;
  if (told.move?.isImpossible) fail('nothing was moved; do not remove the disk of this node', 1);
  else fail('it is not done in time; the proxy goes on with it', 1);
}

function isDrain({ draining }: Json): boolean {
  return typeof draining === 'boolean';
}

function mayGoOn({ isDone, isImpossible = false }: NonNullable<DrainStatus['move']>): boolean {
  return !isDone && !isImpossible;
}

function words({ moved, bytes: size, left, problem, remark }: NonNullable<DrainStatus['move']>): string {
  if (remark !== undefined) return remark;
  const why = problem === undefined ? '' : ` (${problem})`;
  if (left === undefined) return `${moved} moved, what is left was not counted${why}`;
  const rest = left === 0 ? 'none is left' : `${left} left`;
  return `${moved} moved with ${bytes(size)}, ${rest}${why}`;
}

/** Says nothing twice in a row. */
function once(say: (line: string) => void): (line: string) => void {
  let last: string | undefined;
  return (line) => {
    if (line !== last) say(line);
    last = line;
  };
}

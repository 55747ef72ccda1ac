import { setTimeout as sleep } from 'node:timers/promises';
import { type Command, InvalidArgumentError } from 'commander';
import { type AdminClient, type AdminFlags, failWith, type Json, addAdminOptions, withClient } from './admin-client.js';
import { formatBytes } from './format-uploads.js';

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
  addAdminOptions(root.command('drain'))
    .description('have a running proxy take no new uploads; with --move, give those it has to other nodes')
    .option('--move', 'give its uploads to other nodes, and wait until none is left')
    .option('--timeout <seconds>', 'wait no longer than this for --move; the proxy goes on with it', parseSeconds)
    .option('--json', 'only the end, as JSON')
    .addHelpText('after', EXAMPLES)
    .action((options: DrainCommandOptions & AdminFlags) => withClient(options, (client) => drain(client, options)));
}

function parseSeconds(text: string): number {
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

const POLL_INTERVAL_MS = 500;

/** Sends a node away, and with `move` waits until it has nothing left. Says each step once. */
async function drain(client: AdminClient, { move = false, timeout, json = false }: DrainCommandOptions): Promise<void> {
  const until = timeout === undefined ? Infinity : performance.now() + timeout * 1000;
  const say = json ? () => undefined : withoutRepeats((line) => process.stdout.write(`${line}\n`));
  let status = (await client.ask('POST', `/drain?move=${move}`, isDrain)) as DrainStatus;
  say('it takes no new uploads any more');
  while (move && status.move && isInProgress(status.move) && performance.now() < until) {
    if (status.move.left !== undefined) say(progressText(status.move));
    await sleep(POLL_INTERVAL_MS);
    status = (await client.ask('GET', '/drain', isDrain)) as DrainStatus;
  }
  if (json) process.stdout.write(`${JSON.stringify(status)}\n`);
  else if (status.move && move) say(progressText(status.move));
  if (!move || status.move?.isDone) return;
  if (status.move?.isImpossible) failWith('nothing was moved; do not remove the disk of this node', 1);
  else failWith('it is not done in time; the proxy goes on with it', 1);
}

function isDrain({ draining }: Json): boolean {
  return typeof draining === 'boolean';
}

function isInProgress({ isDone, isImpossible = false }: NonNullable<DrainStatus['move']>): boolean {
  return !isDone && !isImpossible;
}

function progressText({ moved, bytes: size, left, problem, remark }: NonNullable<DrainStatus['move']>): string {
  if (remark !== undefined) return remark;
  const why = problem === undefined ? '' : ` (${problem})`;
  if (left === undefined) return `${moved} moved, what is left was not counted${why}`;
  const rest = left === 0 ? 'none is left' : `${left} left`;
  return `${moved} moved with ${formatBytes(size)}, ${rest}${why}`;
}

/** Says nothing twice in a row. */
function withoutRepeats(say: (line: string) => void): (line: string) => void {
  let last: string | undefined;
  return (line) => {
    if (line !== last) say(line);
    last = line;
  };
}

import { setTimeout as sleep } from 'node:timers/promises';
import { type Command, InvalidArgumentError } from 'commander';
import { type AdminClient, type AdminFlags, type Json, addAdminOptions, withClient } from './admin-client.js';
import { failWith } from './fail.js';
import { formatBytes } from './format-uploads.js';

const EXAMPLES = `
A draining node accepts no new uploads and reports that it is not ready; existing uploads continue. With --move it moves
them to the other nodes of its cluster, and the command waits until none is left; then the node can be removed. Without
"cluster" in its configuration there is no node to move them to; with "spool.shared" there is no need to. With --undo it
accepts new uploads again; uploads that were moved stay where they are.

Examples:
  $ rufh-proxy drain --admin http://10.0.0.5:9090
  $ rufh-proxy drain --move --timeout 600
  $ rufh-proxy drain --undo

Exit code: 0 when done, 1 when uploads are left, 2 when the admin listener cannot be reached.`;

/** `drain [--move]`. */
export function addDrainCommand(root: Command): void {
  addAdminOptions(root.command('drain'))
    .description('stop a running proxy from accepting new uploads; with --move, move its uploads to other nodes')
    .option('--move', 'move its uploads to other nodes, and wait until none is left')
    .option(
      '--timeout <seconds>',
      'stop waiting for --move after this time; the proxy continues the move',
      parseSeconds,
    )
    .option('--undo', 'accept new uploads again, and move no more of them')
    .option('--json', 'print only the final state, as JSON')
    .addHelpText('after', EXAMPLES)
    .action((options: DrainCommandOptions & AdminFlags) => {
      if (options.undo && options.move) return failWith('--undo and --move cannot be combined', 2);
      return withClient(options, (client) => (options.undo ? undo(client, options) : drain(client, options)));
    });
}

function parseSeconds(text: string): number {
  if (/^[1-9]\d{0,6}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('It must be a whole number of seconds, 1 or more.');
}

interface DrainCommandOptions {
  readonly move?: boolean;
  readonly undo?: boolean;
  /** In seconds. */
  readonly timeout?: number;
  readonly json?: boolean;
}

/** Drain status of a node, as the admin listener reports it. */
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

/** Ends the drain. */
async function undo(client: AdminClient, { json = false }: DrainCommandOptions): Promise<void> {
  const status = await client.request('DELETE', '/drain', isDrain);
  process.stdout.write(json ? `${JSON.stringify(status)}\n` : 'the proxy accepts new uploads\n');
}

/** Drains a node, and with `move` waits until it has no uploads left. Repeated progress is printed once. */
async function drain(client: AdminClient, { move = false, timeout, json = false }: DrainCommandOptions): Promise<void> {
  const until = timeout === undefined ? Infinity : performance.now() + timeout * 1000;
  const say = json ? () => undefined : withoutRepeats((line) => process.stdout.write(`${line}\n`));
  let status = (await client.request('POST', `/drain?move=${move}`, isDrain)) as DrainStatus;
  say('the proxy accepts no new uploads');
  while (move && status.move && isInProgress(status.move) && performance.now() < until) {
    if (status.move.left !== undefined) say(progressText(status.move));
    await sleep(POLL_INTERVAL_MS);
    status = (await client.request('GET', '/drain', isDrain)) as DrainStatus;
  }
  if (json) process.stdout.write(`${JSON.stringify(status)}\n`);
  else if (status.move && move) say(progressText(status.move));
  if (!move || status.move?.isDone) return;
  if (status.move?.isImpossible) failWith('nothing was moved; do not remove the disk of this node', 1);
  else failWith('the move did not finish in time; the proxy continues it', 1);
}

function isDrain({ draining }: Json): boolean {
  return typeof draining === 'boolean';
}

function isInProgress({ isDone, isImpossible = false }: NonNullable<DrainStatus['move']>): boolean {
  return !isDone && !isImpossible;
}

function progressText({ moved, bytes: size, left, problem, remark }: NonNullable<DrainStatus['move']>): string {
  if (remark !== undefined) return remark;
  const reason = problem === undefined ? '' : ` (${problem})`;
  if (left === undefined) return `${moved} moved, remaining uploads unknown${reason}`;
  const rest = left === 0 ? 'none is left' : `${left} left`;
  return `${moved} moved with ${formatBytes(size)}, ${rest}${reason}`;
}

/** Drops a line that repeats the one before. */
function withoutRepeats(say: (line: string) => void): (line: string) => void {
  let last: string | undefined;
  return (line) => {
    if (line !== last) say(line);
    last = line;
  };
}

import { InvalidArgumentError, type Command } from 'commander';
import { type AdminFlags, withAdmin, withClient } from './admin-flags.js';
import { drain, type DrainCommandOptions } from './drain.js';

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

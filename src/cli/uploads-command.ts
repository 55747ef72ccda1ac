import { userInfo } from 'node:os';
import { InvalidArgumentError, Option, type Command } from 'commander';
import { PHASES } from '../model/upload.js';
import { type AdminFlags, withAdmin, withClient } from './admin-flags.js';
import { each, list, show, type ListOptions } from './uploads.js';

const EXAMPLES = `
The uploads are those of a running proxy, asked through its admin listener. An upload goes by its tag, as in the logs; show
also takes its URL, path, Idempotency-Key or client.

Examples:
  $ rufh-proxy uploads list --phase undelivered
  $ rufh-proxy uploads show 3f0c9a17be
  $ rufh-proxy uploads show /files/report.pdf
  $ rufh-proxy uploads redeliver 3f0c9a17be --admin http://127.0.0.1:9090
  $ rufh-proxy uploads redeliver 3f0c9a17be --past-gate --as 'Ada, ticket 417'

Ends with 0 when everything was done, 1 when something was not, 2 when the admin listener could not be reached.`;

/** `uploads list|show|cancel|redeliver`. */
export function addUploadsCommand(root: Command): void {
  const uploads = root
    .command('uploads')
    .description('see uploads of a running proxy, cancel them, have them delivered again')
    .addHelpText('after', EXAMPLES);
  withAdmin(uploads.command('list'))
    .description('the newest uploads: phase, size, age, attempts, and why they are where they are')
    .addOption(new Option('--phase <phase>', 'only those in this phase').choices(PHASES))
    .option('--limit <number>', 'at most so many', positive, 100)
    .option('--json', 'as JSON')
    .option('-q, --quiet', 'only their tags')
    .action((options: ListOptions & AdminFlags) => withClient(options, (client) => list(client, options)));
  withAdmin(uploads.command('show'))
    .description(
      'everything about one upload, but no credentials and no bytes; the list of them where it may be several',
    )
    .argument('<what>', 'its tag or URL, the path or the client of its creation, or its Idempotency-Key')
    .option('--json', 'as JSON')
    .action((what: string, options: { json?: boolean } & AdminFlags) => {
      return withClient(options, (client) => show(client, what, options));
    });
  withAdmin(uploads.command('cancel'))
    .description('end uploads and remove their bytes; their clients find them gone')
    .argument('<tag...>', 'which')
    .option('--as <name>', WHO)
    .action((tags: string[], options: Who & AdminFlags) => {
      const query = `?${new URLSearchParams({ operator: nameOf(options) }).toString()}`;
      return withClient(options, (client) => each(tags, 'cancelled', (path) => client.ask('DELETE', path + query)));
    });
  withAdmin(uploads.command('redeliver'))
    .description('try again to give uploads to their origin, also those it may have got already')
    .argument('<tag...>', 'which')
    .option('--past-gate', 'without asking the route’s gate, which is asked again otherwise')
    .option('--as <name>', WHO)
    .action((tags: string[], options: Who & AdminFlags & { pastGate?: boolean }) => {
      const past = options.pastGate ? { past_gate: 'true' } : undefined;
      const query = new URLSearchParams({ operator: nameOf(options), ...past }).toString();
      return withClient(options, (client) =>
        each(tags, past ? 'is being delivered past its gate' : 'is being delivered', (path) =>
          client.ask('POST', `${path}/redeliver?${query}`),
        ),
      );
    });
}

const WHO = 'who does it, for the log of the proxy (default: your name on this machine)';

interface Who {
  readonly as?: string;
}

/** `sudo` keeps the name of who called it. */
function nameOf({ as }: Who): string {
  try {
    return as ?? (process.env['SUDO_USER'] || userInfo().username);
  } catch {
    // The user has no name here, as in some containers.
    return `user ${process.getuid?.() ?? 'unknown'}`;
  }
}

function positive(text: string): number {
  if (/^[1-9]\d{0,6}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('It is a whole number above 0.');
}

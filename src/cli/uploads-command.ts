import { InvalidArgumentError, type Command } from 'commander';
import { adminTarget } from './admin-address.js';
import { AdminClient, AdminRefused, AdminUnreachable } from './admin-client.js';
import { each, list, show, type ListOptions } from './uploads.js';

const EXAMPLES = `
The uploads are those of a running proxy, asked through its admin listener. An upload goes by its tag, as in the logs.

Examples:
  $ rufh-proxy uploads list --phase undelivered
  $ rufh-proxy uploads show 3f0c9a17be
  $ rufh-proxy uploads redeliver 3f0c9a17be --admin http://127.0.0.1:9090

Ends with 0 when everything was done, 1 when something was not, 2 when the admin listener could not be reached.`;

/** `uploads list|show|cancel|redeliver`. */
export function addUploadsCommand(root: Command): void {
  const uploads = root
    .command('uploads')
    .description('see uploads of a running proxy, cancel them, have them delivered again')
    .addHelpText('after', EXAMPLES);
  withAdmin(uploads.command('list'))
    .description('the newest uploads: phase, size, age, attempts, and why they are where they are')
    .option('--phase <phase>', 'only those in this phase, such as undelivered')
    .option('--limit <number>', 'at most so many', positive, 100)
    .option('--json', 'as JSON')
    .option('-q, --quiet', 'only their tags')
    .action((options: ListOptions & AdminFlags) => run(options, (client) => list(client, options)));
  withAdmin(uploads.command('show'))
    .description('everything about one upload, but no credentials and no bytes')
    .argument('<tag>', 'as in the list and the logs')
    .option('--json', 'as JSON')
    .action((tag: string, options: { json?: boolean } & AdminFlags) => {
      return run(options, (client) => show(client, tag, options));
    });
  withAdmin(uploads.command('cancel'))
    .description('end uploads and remove their bytes; their clients find them gone')
    .argument('<tag...>', 'which')
    .action((tags: string[], options: AdminFlags) => {
      return run(options, (client) => each(tags, 'cancelled', (path) => client.ask('DELETE', path)));
    });
  withAdmin(uploads.command('redeliver'))
    .description('try again to give uploads to their origin, also those it may have got already')
    .argument('<tag...>', 'which')
    .action((tags: string[], options: AdminFlags) => {
      return run(options, (client) =>
        each(tags, 'is being delivered', (path) => client.ask('POST', `${path}/redeliver`)),
      );
    });
}

interface AdminFlags {
  readonly admin?: string;
  readonly config?: string;
}

function withAdmin(command: Command): Command {
  return command
    .option('--admin <address>', 'URL, HOST:PORT or unix:/path of the admin listener [RUFH_PROXY_ADMIN]')
    .option('-c, --config <file>', 'the proxy’s configuration, which tells its admin listener [RUFH_PROXY_CONFIG]');
}

async function run({ admin, config }: AdminFlags, act: (client: AdminClient) => Promise<void>): Promise<void> {
  const target = adminTarget({ admin, config, env: process.env });
  if ('problem' in target) {
    fail(target.problem, 2);
    return;
  }
  try {
    await act(new AdminClient(target));
  } catch (error) {
    if (error instanceof AdminUnreachable) fail(error.message, 2);
    else if (error instanceof AdminRefused) fail(error.message, 1);
    else throw error;
  }
}

function fail(message: string, code: number): void {
  process.stderr.write(`rufh-proxy: ${message}\n`);
  process.exitCode = code;
}

function positive(text: string): number {
  if (/^[1-9]\d{0,6}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('It is a whole number above 0.');
}

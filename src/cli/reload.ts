import type { Command } from 'commander';
import type { ConfigError } from '../config/errors.js';
import {
  type AdminClient,
  type AdminFlags,
  AdminRefused,
  addAdminOptions,
  type Json,
  withClient,
} from './admin-client.js';
import { printErrors, printWarnings } from './config-errors.js';

const DETAILS = `
The proxy loads its configuration again, from the file, variables and flags that it was started with, and TLS
certificates from their files. Requests in progress end under the former configuration. One with errors is refused as a
whole, and so is one that changes a setting which needs a restart; docs/configuration.md marks these settings.
SIGHUP does the same and logs the result.

Exit code: 0 when the new configuration applies, 1 when the former one still does, 2 when the admin listener cannot be
reached.`;

/** `reload`. */
export function addReloadCommand(root: Command): void {
  addAdminOptions(root.command('reload'))
    .description('make a running proxy load its configuration again, without interrupting a request')
    .option('--json', 'print the result as JSON')
    .addHelpText('after', DETAILS)
    .action((options: ReloadCommandOptions & AdminFlags) => withClient(options, (client) => reload(client, options)));
}

interface ReloadCommandOptions {
  readonly json?: boolean;
}

/** The response to a reload that was carried out. */
interface Reloaded {
  readonly changed: readonly string[];
  readonly warnings: readonly ConfigError[];
}

async function reload(client: AdminClient, { json = false }: ReloadCommandOptions): Promise<void> {
  try {
    const result = (await client.request('POST', '/reload', isReloaded)) as Reloaded;
    if (json) process.stdout.write(`${JSON.stringify(result)}\n`);
    else print(result);
  } catch (error) {
    if (!(error instanceof AdminRefused) || !Array.isArray(error.body['errors'])) throw error;
    if (json) process.stdout.write(`${JSON.stringify({ reloaded: false, errors: error.body['errors'] })}\n`);
    else printErrors(error.body['errors'] as ConfigError[]);
    process.exitCode = 1;
  }
}

function print({ changed, warnings }: Reloaded): void {
  printWarnings(warnings);
  const what = changed.length === 0 ? 'no setting has changed' : `changed: ${changed.join(', ')}`;
  process.stdout.write(`the configuration was reloaded; ${what}\n`);
}

function isReloaded({ reloaded, changed, warnings }: Json): boolean {
  return reloaded === true && Array.isArray(changed) && Array.isArray(warnings);
}

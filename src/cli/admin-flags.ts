import type { Command } from 'commander';
import { adminTarget } from './admin-address.js';
import { AdminClient, AdminRefused, AdminUnreachable } from './admin-client.js';

/** What tells a command where the admin listener of a running proxy is. */
export interface AdminFlags {
  readonly admin?: string;
  readonly adminTokenFile?: string;
  readonly config?: string;
}

export function withAdmin(command: Command): Command {
  return command
    .option('--admin <address>', 'URL, HOST:PORT or unix:/path of the admin listener [RUFH_PROXY_ADMIN]')
    .option('--admin-token-file <file>', 'file with the token that it asks for [RUFH_PROXY_ADMIN_TOKEN_FILE]')
    .option('-c, --config <file>', 'the proxy’s configuration, which tells both [RUFH_PROXY_CONFIG]');
}

/** Ends with 1 when the proxy refuses what was asked, with 2 when there is nobody to ask. */
export async function withClient(flags: AdminFlags, act: (client: AdminClient) => Promise<void>): Promise<void> {
  const target = adminTarget({ ...flags, env: process.env });
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

export function fail(message: string, code: number): void {
  process.stderr.write(`rufh-proxy: ${message}\n`);
  process.exitCode = code;
}

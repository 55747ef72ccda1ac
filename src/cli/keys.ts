import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import { type AdminClient, type AdminFlags, addAdminOptions, type Json, withClient } from './admin-client.js';

const EXAMPLES = `
The records of uploads keep credentials encrypted. "rotate" makes a new key, encrypts every record with it, and then drops
the older keys. A rotation that was interrupted is completed by the next one. Where the configuration has the keys
("secrets.keys", or "secrets.keys_file" with "cluster"), first add the new one behind the others on every node, then move
it to the front on every node; the command then encrypts the records with it.

Examples:
  $ rufh-proxy keys rotate
  $ rufh-proxy keys rotate --admin http://10.0.0.5:9090

Exit code: 0 when done, 1 when older keys are still needed, 2 when the admin listener cannot be reached.`;

/** `keys rotate`. */
export function addKeysCommand(root: Command): void {
  const keys = root
    .command('keys')
    .description('the keys that encrypt credentials in records')
    .addHelpText('after', EXAMPLES);
  addAdminOptions(keys.command('rotate'))
    .description('make a new key, encrypt every record of a running proxy with it, and drop the older keys')
    .action((options: AdminFlags) => withClient(options, (client) => rotate(client)));
}

interface Page {
  readonly resealed: number;
  readonly unreadable: number;
  readonly next?: string;
}

interface Dropped {
  readonly kind: 'dropped' | 'wait' | 'not-ours';
  readonly ms?: number;
}

async function rotate(client: AdminClient): Promise<void> {
  const { key, isNew } = (await client.request('POST', '/keys', isKey)) as { key: string; isNew: boolean };
  say(isNew ? `new key ${key}` : `key ${key}, as configured`);
  await resealAll(client);
  for (;;) {
    const dropped = (await client.request('DELETE', '/keys/older', isDropped)) as Dropped;
    if (dropped.kind === 'dropped') return say('the older keys are dropped');
    if (dropped.kind === 'not-ours')
      return say('no record of this store needs an older key; remove those from the configuration');
    say('waiting until every process uses the new key');
    await sleep(dropped.ms ?? 0);
    await resealAll(client);
  }
}

async function resealAll(client: AdminClient): Promise<void> {
  let resealed = 0;
  let unreadable = 0;
  let next: string | undefined;
  do {
    const query = next === undefined ? '' : `?${new URLSearchParams({ after: next }).toString()}`;
    const page = (await client.request('POST', `/keys/reseal${query}`, isPage)) as Page;
    resealed += page.resealed;
    unreadable += page.unreadable;
    next = page.next;
  } while (next !== undefined);
  say(`${resealed} records encrypted with it`);
  if (unreadable > 0)
    say(`${unreadable} records have values that no key opens; their uploads need the credentials of a new request`);
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

function isKey({ key }: Json): boolean {
  return typeof key === 'string';
}

function isPage({ resealed }: Json): boolean {
  return typeof resealed === 'number';
}

function isDropped({ kind }: Json): boolean {
  return typeof kind === 'string';
}

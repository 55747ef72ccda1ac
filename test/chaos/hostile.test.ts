import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { requestOnce } from '../support/client.js';
import { HostileClients } from '../support/hostile-clients.js';
import { type ProxyProcess, startProxy } from '../support/proxy-process.js';
import { sha256, temporaryDirectory, type TemporaryDirectory, until } from '../support/temporary.js';
import { startTestOrigin, type TestOrigin } from '../support/test-origin.js';
import { rounds, seed } from '../support/thoroughness.js';

const attacks = rounds(1200, 10_000);
const LANES = 8;

let origin: TestOrigin;
let proxy: ProxyProcess;
/** The data directory is somewhere inside, with things of others around it. */
let surroundings: TemporaryDirectory;
let data: string;

beforeEach(async () => {
  surroundings = await temporaryDirectory('rufh-hostile-');
  data = join(surroundings.path, 'some/where/data');
  await mkdir(join(surroundings.path, 'some/uploads'), { recursive: true });
  await mkdir(join(surroundings.path, 'some/where'), { recursive: true });
  for (const place of ['secret', 'some/uploads/secret', 'some/where/secret'])
    await writeFile(join(surroundings.path, place), place);
  origin = await startTestOrigin();
  // A client that reaches its limits is answered a second later, which is not what is tested here.
  const noClientLimits = 'uploads: { total: null, per_client: null, rate: null }';
  const config = `uploads: { rfc104: true }\nlimits: { max_size: 1MiB, idle_timeout: 5s, ${noClientLimits} }`;
  proxy = await startProxy({ origin: origin.url, data, config });
  // Only now: a directory with the files of others is refused at a start.
  await writeFile(join(data, 'secret'), 'some/where/data/secret');
});

afterEach(async () => {
  await proxy.stop();
  await origin.close();
  await surroundings.remove();
});

// Issue 2, item 6. More of it: CHAOS_ROUNDS=20000 CHAOS_SEED=n
test.each([
  ['HTTP/1.1', 0.85],
  ['HTTP/2', 0.15],
] as const)(
  'whatever is sent over %s, the proxy lives, answers properly, writes, tells and smuggles nothing it should not',
  async (version, share) => {
    const { pid } = proxy;
    const before = await snapshot();
    const clients = new HostileClients(proxy.url, origin, { seed, version });
    process.stdout.write(`hostile ${version}, seed ${seed}\n`);
    await clients.run(LANES, Math.ceil((attacks * share) / LANES));
    process.stdout.write(`hostile ${version}: ${clients.size} attacks ${JSON.stringify(clients.counts)}\n`);

    expect(clients.faults).toEqual([]);
    expect(clients.size).toBeGreaterThanOrEqual(attacks * share);
    expect(proxy.running && proxy.pid === pid).toBe(true);
    expect(proxy.errors).toEqual([]);
    expect(proxy.log.filter(({ level }) => level === 'error' || level === 'fatal')).toEqual([]);
    expect(await snapshot()).toEqual(before);
    await onlyUploadsAreKept();
    expect(proxy.lines.some((line) => line.includes('"msg":"request"'))).toBe(true);
    const secrets = [...clients.uploadIds, 'hush-hush'];
    const told = [...proxy.lines, ...(await toldInHistory())];
    expect(told.filter((line) => secrets.some((secret) => line.includes(secret)))).toEqual([]);
    // On Node 20 an HTTP/2 session that broke the protocol stays until it does not answer a PING.
    if (version === 'HTTP/1.1') await until(async () => (await openConnections()) === 0, 'every connection to be gone');
  },
  120_000,
);

/** Everything but the bytes, records and histories of uploads, and the proxy's lock. */
async function snapshot(directory = surroundings.path): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name);
    if (directory === data && /^(?:lock|history$)/.test(entry.name)) continue;
    found[path] = entry.isFile() ? sha256(await readFile(path)) : 'directory';
    const isOurs = directory === data && (entry.name === 'uploads' || entry.name === 'spool');
    if (entry.isDirectory() && !isOurs) Object.assign(found, await snapshot(path));
  }
  return found;
}

/** What the histories of uploads say, in files with the right names. */
async function toldInHistory(): Promise<string[]> {
  const names = await until(async () => {
    const found = await readdir(join(data, 'history')).catch(() => []);
    return found.length > 0 && found;
  }, 'the history of an upload');
  expect(names.filter((name) => !/^stories-\d{12}\.jsonl$/.test(name))).toEqual([]);
  const texts = await Promise.all(names.map((name) => readFile(join(data, 'history', name), 'utf8')));
  return texts.flatMap((text) => text.split('\n'));
}

/** Records of uploads that exist, answers beside them, and bytes of no others: nothing half made. */
async function onlyUploadsAreKept(): Promise<void> {
  const unaccounted = async (): Promise<string[]> => {
    const spooled = await namesIn('spool');
    const records = await namesIn('uploads');
    const strange = records.filter((name) => !/^[A-Za-z0-9_-]{43}\.(log|answer)$/.test(name));
    return [...strange, ...spooled.filter((id) => !records.includes(`${id}.log`))];
  };
  // The last of the attackers' uploads may just be on their way out.
  await until(async () => (await unaccounted()).length === 0, 'nothing to be left but uploads');
}

/** Without the mark that says whose directory it is. */
async function namesIn(directory: string): Promise<string[]> {
  return (await readdir(join(data, directory))).filter((name) => name !== '.store');
}

async function openConnections(): Promise<number> {
  const { body } = await requestOnce(proxy.adminUrl, { method: 'GET', target: '/metrics' });
  return Number(/^rufh_open_connections (\d+)$/m.exec(body.toString())?.[1]);
}

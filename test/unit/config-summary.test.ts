import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { configSummary } from '../../src/cli/check.js';
import { loadConfig } from '../../src/config/load.js';
import { makeCertificate } from '../support/certificate.js';
import { temporaryDirectory, type TemporaryDirectory } from '../support/temporary.js';

let directory: TemporaryDirectory;
beforeEach(async () => {
  directory = await temporaryDirectory();
});
afterEach(() => directory.remove());

/** What is said of store, spool, cluster and workers. */
function told(lines: string): string[] {
  const file = join(directory.path, 'rufh-proxy.yaml');
  writeFileSync(file, `origin: http://a\n${lines.replaceAll('DIR', directory.path)}`);
  const loaded = loadConfig({ file, env: {}, flags: {} });
  if ('configErrors' in loaded) throw new Error(JSON.stringify(loaded.configErrors));
  return configSummary(loaded.config).filter((line) => /^(store|spool|cluster|workers) /.test(line));
}

const redis = (rest: string) => `store: { type: redis, ${rest} }\n`;
const server = redis('url: redis://127.0.0.1');
const cluster = 'listen: 0.0.0.0:8081, secret: sixteen--letters';
const ALONE = 'cluster   none: this must be the only node, because no other can read its bytes';

test.each<[string, string[]]>([
  ['', ['store     embedded, for one process', 'spool     local, sync: group', 'workers   1']],
  [
    server,
    [
      'store     redis, 127.0.0.1:6379, no password, database 0, prefix rufh',
      'spool     local, sync: group',
      ALONE,
      'workers   1',
    ],
  ],
  [
    `${redis('url: "unix:///s?db=1", username: me, password: pw, replicas: 2')}workers: 3`,
    [
      'store     redis, /s, user me, database 1, prefix rufh, confirmed by replicas: 2',
      'spool     local, sync: group',
      ALONE,
      'workers   3',
    ],
  ],
  [
    `${redis('url: ["rediss://:pw@a:1", "rediss://[::1]:2"], cluster: true, prefix: x')}spool: { shared: true, sync: always }`,
    [
      'store     redis, Cluster with a:1, [::1]:2, TLS, prefix x',
      'spool     local, shared by all nodes, sync: always',
      'workers   1',
    ],
  ],
  [
    `${redis('url: [redis://:pw@a, redis://b/3], sentinel: { master: main }')}cluster: { ${cluster}, advertise: http://a:8081 }`,
    [
      'store     redis, master main of Sentinels a:26379, b:26379, database 3, prefix rufh',
      'spool     local, sync: group',
      'cluster   http://a:8081, listening on 0.0.0.0:8081 (signed, without TLS)',
      'workers   1',
    ],
  ],
])('%s', (lines, expected) => {
  expect(told(lines)).toEqual(expected);
});

test('nodes with certificates are told to have them', () => {
  const { cert, key } = makeCertificate();
  writeFileSync(join(directory.path, 'cert'), cert);
  writeFileSync(join(directory.path, 'key'), key);
  const tls = 'tls: { cert: DIR/cert, key: DIR/key, ca: DIR/cert }';
  expect(told(`${server}cluster: { ${cluster}, advertise: https://a:8081, ${tls} }`)).toContain(
    'cluster   https://a:8081, listening on 0.0.0.0:8081 (signed, mutual TLS)',
  );
});

import * as z from 'zod';
import { address, duration, path, scalar } from './scalars.js';
import { pathOrNull, secretOrNull } from './secret-scalars.js';
import { SHORTEST_SECRET } from './secret.js';

const ADVERTISED = /^https?:\/\/(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):\d{1,5}\/?$/;

/** `http://HOST:PORT`, as the other nodes connect to it. */
function advertised() {
  return scalar({
    read: (found) =>
      typeof found === 'string' && ADVERTISED.test(found) && URL.canParse(found) ? new URL(found).origin : undefined,
    allowed: 'http://HOST:PORT or https://HOST:PORT, as other nodes reach this one, such as http://10.0.0.5:8081',
    json: { type: 'string', pattern: ADVERTISED.source },
    unit: 'URL',
  });
}

const peerTls = z.strictObject({
  cert: path().describe('File with this node’s certificate and its chain (PEM).'),
  key: path().describe('File with its private key (PEM).'),
  ca: path().describe('File with the authority that signed every node’s certificate (PEM); both sides must show one.'),
});

/** `cluster`: how nodes that keep bytes on disks of their own reach each other. */
export const cluster = z
  .strictObject({
    listen: address().describe('Where the other nodes connect. Keep it on a private network.'),
    advertise: advertised().describe('What the other nodes call this one; every node has its own.'),
    secret: secretOrNull({ least: SHORTEST_SECRET })
      .prefault(null)
      .describe(
        `Signs what nodes say to each other: the same on every node, at least ${SHORTEST_SECRET} letters. Either this or ` +
          '`secret_file`.',
      ),
    secret_file: pathOrNull().prefault(null).describe('File with the secret.'),
    tls: peerTls
      .nullable()
      .prefault(null)
      .describe(
        'Nodes speak TLS with each other and check both certificates: a group as below. `null`: cleartext, signed.',
      ),
    // Nodes are heard of every two seconds: one that is only busy must not be taken for one that is gone.
    owner_timeout: duration({ leastMs: 10_000 })
      .prefault('10m')
      .describe('A node that is silent for this long has lost its uploads: 404 in place of 503 and `Retry-After`.'),
  })
  .nullable()
  .prefault(null)
  .describe(
    'Nodes that keep bytes on disks of their own, with `spool.shared: false`, give each other the requests for their ' +
      'uploads: a group as below. `null`: this is the only node, or the spool is shared.',
  );

/** `workers`. */
export const workers = scalar({
  read: (found): number | 'auto' | undefined => {
    const count = typeof found === 'string' && /^\d+$/.test(found) ? Number(found) : found;
    if (count === 'auto') return count;
    return typeof count === 'number' && Number.isInteger(count) && count >= 1 && count <= 1024 ? count : undefined;
  },
  allowed: 'a whole number from 1 to 1024, or auto',
  json: { anyOf: [{ type: 'integer', minimum: 1, maximum: 1024 }, { const: 'auto' }] },
  unit: 'number or auto',
})
  .prefault(1)
  .describe('Processes that share the listeners, with `store.type: redis`. `auto`: one for each core of the machine.');

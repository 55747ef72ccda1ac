import * as z from 'zod';
import { admin } from './admin.js';
import { access, delivery } from './delivery-schema.js';
import { headerSettings, limitSettings, plainBodies, routeSettings } from './route-schema.js';
import { pathOrNull, secretOrNull, MIN_SECRET_LENGTH } from './secrets.js';
import { store } from './store-schema.js';
import {
  address,
  boolean,
  cidr,
  duration,
  fileMode,
  httpUrl,
  httpUrlOrNull,
  integer,
  integerOrNull,
  isNull,
  oneOf,
  path,
  valueType,
  size,
  sizeOrNull,
  text,
  withDefaults,
} from './values.js';

const ADVERTISED_URL = /^https?:\/\/(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):\d{1,5}\/?$/;

/** `http://HOST:PORT`, as the other nodes connect to it. */
function advertisedUrl() {
  return valueType({
    read: (found) =>
      typeof found === 'string' && ADVERTISED_URL.test(found) && URL.canParse(found)
        ? new URL(found).origin
        : undefined,
    allowed: 'http://HOST:PORT or https://HOST:PORT at which other nodes reach this one, such as http://10.0.0.5:8081',
    json: { type: 'string', pattern: ADVERTISED_URL.source },
    unit: 'URL',
  });
}

const peerTls = z.strictObject({
  cert: path().describe('File with this node’s certificate and its chain (PEM).'),
  key: path().describe('File with its private key (PEM).'),
  ca: path().describe('File with the authority that signed every node’s certificate (PEM); both sides must show one.'),
});

/** `cluster`: how nodes that keep bytes on disks of their own reach each other. */
const cluster = z
  .strictObject({
    listen: address().describe('Where the other nodes connect. Keep it on a private network.'),
    advertise: advertisedUrl().describe('What the other nodes call this one; every node has its own.'),
    secret: secretOrNull({ min: MIN_SECRET_LENGTH })
      .prefault(null)
      .describe(
        `Signs what nodes say to each other: the same on every node, at least ${MIN_SECRET_LENGTH} letters. Either this or ` +
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
    owner_timeout: duration({ minMs: 10_000 })
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
const workers = valueType({
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

/** What clients may take of this process, and how slow they may be: settings of the top `limits` alone. */
const clientLimits = {
  head_timeout: duration({ minMs: 1 })
    .prefault('30s')
    .describe(
      'How long a request’s header section may take, from its first byte to its last; 408 and the end of the connection follow. ' +
        'A TLS handshake, and the first request of a new HTTP/2 connection, have as long.',
    ),
  min_rate: z
    .strictObject({
      request: sizeOrNull()
        .prefault(100)
        .describe(
          'Bytes a second that a request body has to bring. Only time counts in which the client could send: not while it waits ' +
            'for `100 (Continue)`, nor while the origin or the disk is behind. `null`: no limit.',
        ),
      response: sizeOrNull()
        .prefault(100)
        .describe(
          'Bytes a second that a client has to take while bytes wait for it; an answer that has nothing to send costs it nothing. ' +
            'Connections that changed to another protocol are free of it. `null`: no limit.',
        ),
      window: duration({ minMs: 100 })
        .prefault('60s')
        .describe(
          'Over how long that is measured; for request bodies at least `idle_timeout`, for responses five times as long, because ' +
            'buffers on the way hide how much a slow client reads.',
        ),
    })
    .prefault({})
    .describe(
      'How slow a client may be. A request body that is slower is ended like an idle one: an upload keeps its bytes and resumes, ' +
        'another request gets 408. A client that takes its answer more slowly loses its connection, or its HTTP/2 stream.',
    ),
  connections: z
    .strictObject({
      total: integerOrNull({ min: 1, max: 10_000_000 })
        .prefault(null)
        .describe(
          'Connections of clients in all, over all `workers`. `null`: a third of the file descriptors that each process may open ' +
            '(`ulimit -n`) less 64, at most 16384 a process: what is left is for origins, the disk and the admin listener.',
        ),
      per_address: integerOrNull({ min: 1, max: 10_000_000 })
        .prefault(null)
        .describe(
          'Connections of one client address, of one /64 with IPv6. `trusted_proxies` and Unix sockets are free of it, as they stand ' +
            'for many clients. `null`: half of `total`.',
        ),
    })
    .prefault({})
    .describe(
      'How many connections clients may have. One more is reset at once, counted in `rufh_connections_refused_total` and told ' +
        'in the log. From nine tenths of `total` on, connections that wait idle for a next request are closed first.',
    ),
};

/**
 * Every setting with its unit, its default and its meaning, as it stands in the file. The JSON Schema for editors,
 * docs/configuration.md and the checks are all made from it.
 */

/** Where clients connect when nothing else is said. */
export const DEFAULT_LISTEN = '0.0.0.0:8080';

const tls = z.strictObject({
  cert: path().describe('File with the certificate and its chain (PEM).'),
  key: path().describe('File with the private key (PEM). Give it to the user of rufh-proxy only (mode 0400).'),
});

const listener = z.strictObject({
  address: address().describe('Where to listen: `HOST:PORT`, `[::1]:PORT` or `unix:/path`. Port 0 takes a free one.'),
  tls: tls.optional().describe('Serve HTTPS. Without it the listener speaks cleartext.'),
  http2: boolean()
    .prefault(true)
    .describe('Offer HTTP/2 beside HTTP/1.1: through ALPN with TLS, with prior knowledge (h2c) without.'),
  keep_alive: duration({ minMs: 1000 })
    .optional()
    .describe(
      'A connection without a request is closed after this time. Longer than a balancer in front keeps its own, or requests ' +
        'meet a closing connection: Amazon’s keeps them for 60 s, Google’s for 600 s. Default 75 s.',
    ),
  mode: fileMode()
    .optional()
    .describe('Who may connect to a Unix socket, as `chmod` says it. Default `0660`: its user and its group.'),
});

const listenerOrAddress = z.union([address(), listener]);

const trustedProxy = z.strictObject({
  cidr: cidr().describe('The proxy’s address or range; `unix` for a proxy that connects to a Unix socket.'),
  relays_interim: boolean()
    .prefault(false)
    .describe('This proxy passes 1xx responses on while the request body is still coming, see `interim_responses`.'),
  connection_per_client: boolean()
    .prefault(false)
    .describe(
      'This proxy has a connection to us for each of its clients, so that NTLM and Negotiate can log in a connection. ' +
        'Where it sends requests of several clients over one, leave it `false`: each such request then has a connection of its own.',
    ),
});

/** RFC 7838 §3, as it is sent; `null` for none. */
function altSvc() {
  const form = /^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$/;
  return valueType({
    read: (found) => (isNull(found) ? null : typeof found === 'string' && form.test(found) ? found : undefined),
    allowed: 'a value of Alt-Svc such as h3=":443"; ma=86400, or null',
    json: { type: ['string', 'null'], pattern: form.source },
    unit: 'text',
  });
}

export const schema = z.strictObject({
  origin: httpUrl().describe(
    'The API that gets the requests. A path in it is put before every request’s own. Required.',
  ),
  listen: z
    .union([listenerOrAddress, z.array(listenerOrAddress).min(1, 'at least one listener')])
    .prefault(DEFAULT_LISTEN)
    .describe('Where clients connect: an address, an object as below, or a list of either.'),
  admin,
  data: path()
    .prefault('./data')
    .describe(
      'Directory of the embedded store, which one process uses at a time, and of the local spool, which the workers of ' +
        'a node share.',
    ),
  store,
  spool: z
    .strictObject({
      type: oneOf(['local'], 'local; other spools, such as s3, are not supported yet')
        .prefault('local')
        .describe('`local`: files under `data`.'),
      shared: boolean()
        .prefault(false)
        .describe(
          'With `store.type: redis`. `true`: `data` is one directory that every node mounts (NFS, EFS, CephFS), so that ' +
            'each can go on with any upload. `false`: the bytes are on this node’s own disk; more than one node needs `cluster`.',
        ),
      sync: oneOf(['always', 'group', 'none'])
        .prefault('group')
        .describe(
          'When bytes and records are forced to the disk. `always`: before each is acknowledged. `group`: the same, ' +
            'several uploads sharing one sync. `none`: left to the operating system; a killed process loses nothing ' +
            'that was acknowledged, a power cut may; not with `shared`.',
        ),
    })
    .prefault({})
    .describe('Where the bytes of uploads are kept until the origin has answered.'),
  cluster,
  workers,
  uploads: z
    .strictObject({
      path: text({
        form: /^\/(?:[A-Za-z0-9._~-]+\/)+$/,
        allowed: 'a path that begins and ends with / and is longer than /, such as /.uploads/',
        unit: 'path of a URL',
      })
        .prefault('/.uploads/')
        .describe('Upload resources live below this path. Requests to it never reach an origin.'),
      public_url: httpUrlOrNull()
        .prefault(null)
        .describe(
          'What clients call us, such as `https://api.example.com`: upload URLs begin with it. `null`: taken from ' +
            'each request’s `Host` (or `:authority`), and from trusted proxies’ forwarded fields.',
        ),
      rfc104: boolean()
        .prefault(false)
        .describe(
          'Send 104 to clients that name no draft version, as the coming standard will have it. The drafts forbid it.',
        ),
    })
    .prefault({})
    .describe('The URLs of upload resources.'),
  interim_responses: oneOf(['auto', 'always', 'never'])
    .prefault('auto')
    .describe(
      '104 responses while an upload is under way. `auto`: on direct connections and through trusted proxies with ' +
        '`relays_interim: true`. Some proxies break when they see one: choose `never` behind nginx, Varnish or ATS.',
    ),
  trusted_proxies: z
    .array(z.union([cidr(), trustedProxy]))
    .prefault([])
    .describe('Peers whose `Forwarded` and `X-Forwarded-*` fields are believed: ranges, or objects as below.'),
  limits: z
    .strictObject({
      ...withDefaults(limitSettings, {
        max_size: null,
        min_size: 0,
        max_append_size: null,
        min_append_size: null,
        max_age: '24h',
      }),
      idle_timeout: duration({ minMs: 1 })
        .prefault('60s')
        .describe('Ends a request body that has sent nothing for this long; what came before stays.'),
      ...clientLimits,
    })
    .prefault({})
    .describe('What an upload must keep to. Announced to clients in `Upload-Limit`.'),
  plain_bodies: plainBodies().prefault(null),
  alt_svc: altSvc()
    .prefault(null)
    .describe(
      'Sent as `Alt-Svc` with the origin’s answers, where a front offers HTTP/3. `null`: none. The origin’s own is always dropped: it would ' +
        'lead clients around the proxy.',
    ),
  delivery,
  ...access,
  headers: z
    .strictObject(withDefaults(headerSettings, { underscores: 'drop', original_url: 'drop' }))
    .prefault({})
    .describe('Which header fields of clients reach an origin.'),
  cors: z
    .strictObject({
      allow_origins: z
        .array(
          text({ form: /^(\*|https?:\/\/[^/\s]+|null)$/, allowed: 'an origin such as https://app.example.com, or *' }),
        )
        .prefault([])
        .describe(
          'Web origins whose pages may upload from a browser; `*` for all. Empty: CORS is left to the origin. Pages that ' +
            'are named here may also reach this proxy in a private network.',
        ),
      allow_credentials: boolean().prefault(false).describe('Pages may send cookies and credentials along.'),
      max_age: duration({ maxMs: Infinity })
        .prefault('24h')
        .describe('How long a browser may remember a preflight answer.'),
    })
    .prefault({})
    .describe('Browser access (CORS) to upload resources and to creations.'),
  http2: z
    .strictObject({
      stream_window: size({ min: 65535 })
        .prefault('4MiB')
        .describe('Bytes a client may send ahead on one stream. Small windows make distant clients slow.'),
      session_window: size({ min: 65535 })
        .prefault('8MiB')
        .describe('Bytes a client may send ahead on one connection, all streams together.'),
      max_streams: integer({ min: 1, max: 10000 })
        .prefault(100)
        .describe('Requests a client may have under way at a time on one connection.'),
    })
    .prefault({})
    .describe('HTTP/2 flow control. One connection may hold up to `session_window` in memory.'),
  stop: z
    .strictObject({
      grace: duration()
        .prefault('30s')
        .describe('After the first SIGTERM or SIGINT: how long requests and deliveries under way may take to finish.'),
    })
    .prefault({})
    .describe('How the process ends.'),
  log: z
    .strictObject({
      level: oneOf(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'])
        .prefault('info')
        .describe('The least important lines that are written.'),
      format: oneOf(['auto', 'json', 'pretty'])
        .prefault('auto')
        .describe('`json`: one object a line. `pretty`: for people. `auto`: pretty on a terminal, else json.'),
    })
    .prefault({})
    .describe('Logs, on standard output.'),
  routes: z
    .array(routeSettings)
    .min(1, 'at least one route; leave `routes` out to make every path resumable')
    .optional()
    .describe(
      'Where uploads are resumable. Without it every path is; with it only what a route matches is, and the rest ' +
        'passes through to the top `origin`.',
    ),
});

/** The part that tells where the admin listener is. */
export const adminSchema = z.object({ admin: schema.shape.admin });

/** The settings as they stand in the file, checked and with defaults; sizes in bytes, times in milliseconds. */
export type Settings = z.output<typeof schema>;

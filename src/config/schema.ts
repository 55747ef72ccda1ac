import * as z from 'zod';
import { admin } from './admin.js';
import { corsSettings } from './cors.js';
import { access, delivery } from './delivery-schema.js';
import { headerSettings, limitSettings, plainBodies, protocols, routeSettings } from './route-schema.js';
import { history } from './history-schema.js';
import { secrets } from './secrets-schema.js';
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
  sizeOrShareOrNull,
  sizeOrNull,
  text,
  withDefaults,
} from './values.js';

const ADVERTISED_URL = /^https?:\/\/(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):\d{1,5}\/?$/;

/** `http://HOST:PORT`, at which the other nodes connect. */
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
  ca: path().describe(
    'File with the CA that signed the certificate of every node (PEM); both sides must present a certificate.',
  ),
});

/** `cluster`: how nodes with separate disks reach each other. */
const cluster = z
  .strictObject({
    listen: address().describe('Where the other nodes connect. Keep it on a private network.'),
    advertise: advertisedUrl().describe('URL at which the other nodes reach this one; different on every node.'),
    secret: secretOrNull({ min: MIN_SECRET_LENGTH })
      .prefault(null)
      .describe(
        `Signs the traffic between nodes: the same on every node, at least ${MIN_SECRET_LENGTH} characters. Set either this or ` +
          '`secret_file`.',
      ),
    secret_file: pathOrNull().prefault(null).describe('File with the secret.'),
    tls: peerTls
      .nullable()
      .prefault(null)
      .describe('Mutual TLS between nodes: a group as below. `null`: signed cleartext.'),
    // Nodes report every two seconds; the minimum keeps a busy node from being taken for a lost one.
    owner_timeout: duration({ minMs: 10_000 })
      .prefault('10m')
      .describe(
        'A node that is silent for this long counts as lost, with its uploads: clients get 404 instead of 503 with `Retry-After`.',
      ),
  })
  .nullable()
  .prefault(null)
  .describe(
    'For nodes that each keep bytes on their own disk (`spool.shared: false`): they forward requests to the node that holds the ' +
      'upload. A group as below. `null`: this is the only node, or the spool is shared.',
  );

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
  .describe(
    'Number of processes that share the listeners; more than one needs `store.type: redis`. `auto`: one for each CPU core.',
  );

/** Limits for the connections and the speed of clients: only in the top-level `limits`. */
const clientLimits = {
  head_timeout: duration({ minMs: 1 })
    .prefault('30s')
    .describe(
      'How long the header section of a request may take, from first to last byte; then the client gets 408 and the connection is closed. ' +
        'The same limit applies to a TLS handshake and to the first request of a new HTTP/2 connection.',
    ),
  max_head: size({ min: 4096, max: 65_536 })
    .prefault('64KiB')
    .describe(
      'Maximum size of the header section of a request, in bytes; a larger one gets 431. That of an upload is kept in its record. ' +
        'Applications behind the proxy often accept less.',
    ),
  min_rate: z
    .strictObject({
      request: sizeOrNull()
        .prefault(100)
        .describe(
          'Minimum rate of a request body, in bytes per second. Only time in which the client could send counts: not while it waits ' +
            'for `100 (Continue)`, nor while the origin or the disk is slower. `null`: no limit.',
        ),
      response: sizeOrNull()
        .prefault(100)
        .describe(
          'Minimum rate at which a client must read, in bytes per second, while bytes are waiting for it; pauses of the origin do not count. ' +
            'Upgraded connections are exempt. `null`: no limit.',
        ),
      window: duration({ minMs: 100 })
        .prefault('60s')
        .describe(
          'Period over which the rate is measured. For request bodies it is at least `idle_timeout`; for responses it is five times as ' +
            'long, because buffers on the way hide how much a slow client has read.',
        ),
    })
    .prefault({})
    .describe(
      'How slow a client may be. A slower request body is ended like an idle one: an upload keeps its bytes and can be resumed, any ' +
        'other request gets 408. A client that reads a response more slowly loses its connection, or its HTTP/2 stream.',
    ),
  connections: z
    .strictObject({
      total: integerOrNull({ min: 1, max: 10_000_000 })
        .prefault(null)
        .describe(
          'Maximum number of client connections, over all `workers`. `null`: a third of the file descriptors that each process may open ' +
            '(`ulimit -n`) minus 64, at most 16384 per process: the rest is for origins, the disk and the admin listener.',
        ),
      per_address: integerOrNull({ min: 1, max: 10_000_000 })
        .prefault(null)
        .describe(
          'Maximum number of connections from one client address, or one /64 with IPv6. `trusted_proxies` and Unix sockets are exempt, as they ' +
            'carry many clients. `null`: half of `total`.',
        ),
    })
    .prefault({})
    .describe(
      'How many connections clients may open. Further ones are reset, counted in `rufh_connections_refused_total` and logged. ' +
        'From 90 % of `total` on, idle connections are closed first.',
    ),
  uploads: z
    .strictObject({
      total: integerOrNull({ min: 1, max: 100_000_000 })
        .prefault(100_000)
        .describe('Maximum number of uploads that are not answered yet; further ones get 503. `null`: no limit.'),
      per_client: integerOrNull({ min: 1, max: 100_000_000 })
        .prefault(2000)
        .describe('The same for one client; further ones get 429 (503 with tus). `null`: no limit.'),
      bytes_per_client: sizeOrNull()
        .prefault(null)
        .describe(
          'Maximum number of bytes that the uploads of one client take in the spool, those that are still to come included; an upload ' +
            'that does not fit gets 429. `null`: no limit.',
        ),
      rate: integerOrNull({ min: 1, max: 1_000_000 })
        .prefault(50)
        .describe(
          'Maximum number of uploads that one client may create in a second; further ones get 429 (503 with tus). Each process counts by itself. ' +
            '`null`: no limit.',
        ),
      burst: integer({ min: 1, max: 1_000_000 })
        .prefault(1000)
        .describe('Number of uploads that a client may create at once before `rate` applies to it.'),
    })
    .prefault({})
    .describe(
      'How many uploads clients may have. A client is the principal that `authorize.forward_auth` names, else an address, or a /64 with IPv6. ' +
        'Addresses of `trusted_proxies` and Unix sockets have no limits of one client. Neither have ordinary requests whose ' +
        'bodies are spooled. Refused uploads are counted in `rufh_uploads_refused_total` and logged.',
    ),
};

/** Address to which clients connect by default. */
export const DEFAULT_LISTEN = '0.0.0.0:8080';

const tls = z.strictObject({
  cert: path().describe(
    'File with the certificate and its chain (PEM). A new one is used within seconds, as soon as it and the key work together.',
  ),
  key: path().describe(
    'File with the private key (PEM). Only the user of rufh-proxy should be able to read it (mode 0400).',
  ),
  min_version: oneOf(['TLSv1.2', 'TLSv1.3'])
    .prefault('TLSv1.2')
    .describe('Oldest version of TLS that clients may use.'),
  client_ca: pathOrNull()
    .prefault(null)
    .describe(
      'File with the CAs that sign the certificates of clients (PEM). A client without such a certificate gets no connection. ' +
        '`null`: clients need none.',
    ),
});

const listener = z.strictObject({
  address: address().describe('Where to listen: `HOST:PORT`, `[::1]:PORT` or `unix:/path`. Port 0 picks a free port.'),
  tls: tls
    .optional()
    .describe('Serve HTTPS. Without it the listener speaks cleartext. Adding or removing the group takes a restart.'),
  http2: boolean()
    .prefault(true)
    .describe('Offer HTTP/2 beside HTTP/1.1: through ALPN with TLS, with prior knowledge (h2c) without.'),
  keep_alive: duration({ minMs: 1000 })
    .optional()
    .describe(
      'An idle connection is closed after this time. Choose more than the load balancer in front does, or requests may ' +
        'hit a closing connection: AWS keeps connections for 60 s, Google Cloud for 600 s. Default: 75 s.',
    ),
  mode: fileMode()
    .optional()
    .describe('Permissions of a Unix socket, as for `chmod`. Default `0660`: its user and group may connect.'),
});

const listenerOrAddress = z.union([address(), listener]);

const trustedProxy = z.strictObject({
  cidr: cidr().describe('The proxy’s address or range; `unix` for a proxy that connects to a Unix socket.'),
  relays_interim: boolean()
    .prefault(false)
    .describe('This proxy passes 1xx responses on while the request body is still arriving; see `interim_responses`.'),
  connection_per_client: boolean()
    .prefault(false)
    .describe(
      'This proxy opens a separate connection to us for each of its clients, so that NTLM and Negotiate can authenticate connections. ' +
        'If it mixes requests of several clients on one connection, keep `false`: each such request then gets its own connection to the origin.',
    ),
});

/** RFC 7838 §3, as it is sent; `null` for none. */
function altSvc() {
  const pattern = /^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$/;
  return valueType({
    read: (found) => (isNull(found) ? null : typeof found === 'string' && pattern.test(found) ? found : undefined),
    allowed: 'a value of Alt-Svc such as h3=":443"; ma=86400, or null',
    json: { type: ['string', 'null'], pattern: pattern.source },
    unit: 'text',
  });
}

/**
 * Every setting with its unit, default and description. The JSON Schema for editors, docs/configuration.md and the
 * checks are all derived from it.
 */
export const schema = z.strictObject({
  origin: httpUrl().describe(
    'URL of the API behind the proxy. If it has a path, that is prepended to the path of every request. Required.',
  ),
  listen: z
    .union([listenerOrAddress, z.array(listenerOrAddress).min(1, 'at least one listener')])
    .prefault(DEFAULT_LISTEN)
    .describe(
      'Where clients connect: an address, a group as below, or a list of either. Adding or removing a listener takes a restart.',
    ),
  admin,
  data: path()
    .prefault('./data')
    .describe(
      'Directory of the embedded store, which only one process can use at a time, and of the local spool, which the workers of ' +
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
          'With `store.type: redis`. `true`: `data` is one directory that all nodes mount (NFS, EFS, CephFS), so that ' +
            'any node can resume any upload. `false`: the bytes are on this node’s own disk; with several nodes, set `cluster`.',
        ),
      sync: oneOf(['always', 'group', 'none'])
        .prefault('group')
        .describe(
          'When bytes and records are forced to the disk. `always`: before each is acknowledged. `group`: the same, ' +
            'but several uploads share one sync. `none`: left to the operating system; a killed process loses nothing ' +
            'that was acknowledged, a power cut may. Not allowed with `shared`.',
        ),
      max_bytes: sizeOrNull()
        .prefault(null)
        .describe(
          'Maximum number of bytes that uploads take, those that are still to come included, on all nodes together; an upload that does ' +
            'not fit gets 507. `null`: no limit.',
        ),
      keep_free: sizeOrShareOrNull()
        .prefault(null)
        .describe(
          'Space of the file system that new uploads leave free, as a size or a percentage; an upload that does not fit gets 507. `null`: ' +
            'the smaller one of 1 GiB and 5 %.',
        ),
    })
    .prefault({})
    .describe('Where the bytes of uploads are kept until the origin has answered.'),
  secrets,
  history,
  cluster,
  workers,
  uploads: z
    .strictObject({
      path: text({
        pattern: /^\/(?:[A-Za-z0-9._~-]+\/)+$/,
        allowed: 'a path that begins and ends with / and is longer than /, such as /.uploads/',
        unit: 'path of a URL',
      })
        .prefault('/.uploads/')
        .describe('Path of all upload resources. Requests to it never reach an origin.'),
      public_url: httpUrlOrNull()
        .prefault(null)
        .describe(
          'URL at which clients reach the proxy, such as `https://api.example.com`; upload URLs begin with it. `null`: taken from ' +
            'each request’s `Host` (or `:authority`), and from trusted proxies’ forwarded fields.',
        ),
      rfc104: boolean()
        .prefault(false)
        .describe(
          'Send 104 to clients that name no draft version, as the final standard will require. The drafts forbid it.',
        ),
    })
    .prefault({})
    .describe('The URLs of upload resources.'),
  interim_responses: oneOf(['auto', 'always', 'never'])
    .prefault('auto')
    .describe(
      'Send 104 responses during an upload. `auto`: on direct connections and through trusted proxies with ' +
        '`relays_interim: true`. Some proxies fail when they receive one: use `never` behind nginx or ATS.',
    ),
  trusted_proxies: z
    .array(z.union([cidr(), trustedProxy]))
    .prefault([])
    .describe('Peers whose `Forwarded` and `X-Forwarded-*` fields are trusted: ranges, or groups as below.'),
  limits: z
    .strictObject({
      ...withDefaults(limitSettings, {
        max_size: null,
        min_size: 0,
        max_append_size: null,
        min_append_size: null,
        max_age: '24h',
        max_idle_empty: '10m',
        max_uploads: null,
        max_spooled: null,
      }),
      idle_timeout: duration({ minMs: 1 })
        .prefault('60s')
        .describe('Ends a request body that sends nothing for this long; the bytes received so far are kept.'),
      ...clientLimits,
    })
    .prefault({})
    .describe('Limits of uploads. Announced to clients in `Upload-Limit`.'),
  plain_bodies: plainBodies().prefault(null),
  protocols: protocols().prefault(['rufh', 'tus']),
  alt_svc: altSvc()
    .prefault(null)
    .describe(
      '`Alt-Svc` of responses from the origin, for a proxy in front that offers HTTP/3. `null`: none. The origin’s own value is always ' +
        'removed, because it would lead clients around the proxy.',
    ),
  delivery,
  ...access,
  headers: z
    .strictObject(withDefaults(headerSettings, { underscores: 'drop', original_url: 'drop' }))
    .prefault({})
    .describe('Which header fields from clients reach an origin.'),
  cors: z
    .strictObject(withDefaults(corsSettings, { allow_origins: [], allow_credentials: false, max_age: '24h' }))
    .prefault({})
    .describe(
      'Browser access (CORS) to upload creation and upload resources, for pages of other origins. The rules apply to every response to a ' +
        'request that may upload, also where it passes through.',
    ),
  http2: z
    .strictObject({
      stream_window: size({ min: 65535 })
        .prefault('4MiB')
        .describe(
          'Initial flow-control window of one stream, in bytes. It grows with that of the connection, up to half of 64 MiB by ' +
            'default, and shrinks while bodies are not read.',
        ),
      session_window: size({ min: 65535 })
        .prefault('8MiB')
        .describe(
          'Initial flow-control window of one connection, all streams together. It grows up to 64 MiB for a distant client ' +
            'whose bodies are read as fast as they arrive.',
        ),
      max_streams: integer({ min: 1, max: 10000 })
        .prefault(100)
        .describe('Maximum number of concurrent requests on one connection.'),
    })
    .prefault({})
    .describe(
      'HTTP/2 flow control. Unread bodies of one connection hold about `session_window` in memory, and never more than twice ' +
        'its current window. The windows of all connections together grow by at most 128 MiB.',
    ),
  stop: z
    .strictObject({
      grace: duration()
        .prefault('30s')
        .describe('How long requests and deliveries in progress may take to finish after the first SIGTERM or SIGINT.'),
    })
    .prefault({})
    .describe('How the process stops.'),
  log: z
    .strictObject({
      level: oneOf(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'])
        .prefault('info')
        .describe('Lowest level that is logged.'),
      format: oneOf(['auto', 'json', 'pretty'])
        .prefault('auto')
        .describe(
          '`json`: one object per line. `pretty`: human-readable. `auto`: `pretty` on a terminal, otherwise `json`.',
        ),
    })
    .prefault({})
    .describe('Logs, on standard output.'),
  routes: z
    .array(routeSettings)
    .min(1, 'at least one route; leave `routes` out to make every path resumable')
    .optional()
    .describe(
      'Where uploads are resumable. Without routes every path is; with routes only matching requests are, and the rest ' +
        'passes through to the top-level `origin`.',
    ),
});

/** Only the settings of the admin listener. */
export const adminSchema = z.object({ admin: schema.shape.admin });

/** The validated settings with defaults, by their keys in the file; sizes in bytes, times in milliseconds. */
export type Settings = z.output<typeof schema>;

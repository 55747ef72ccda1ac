import * as z from 'zod';
import { admin } from './admin-settings.js';
import { access } from './authorize-settings.js';
import { clientLimits } from './client-limit-settings.js';
import { cluster, workers } from './cluster-settings.js';
import { withDefaults } from './defaults.js';
import { delivery } from './delivery-settings.js';
import { headerSettings, limitSettings, plainBodies, routeSettings } from './route-settings.js';
import {
  address,
  boolean,
  cidr,
  duration,
  fileMode,
  httpUrl,
  httpUrlOrNull,
  integer,
  isNull,
  oneOf,
  path,
  scalar,
  size,
  text,
} from './scalars.js';
import { store } from './store-settings.js';

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
  keep_alive: duration({ leastMs: 1000 })
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
  return scalar({
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
      type: oneOf(['local'], 'local; other spools, such as s3, are not built yet')
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
        allowed: 'a path that begins and ends with / and is more than /, such as /.uploads/',
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
      idle_timeout: duration({ leastMs: 1 })
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
      max_age: duration({ mostMs: Infinity })
        .prefault('24h')
        .describe('How long a browser may remember a preflight answer.'),
    })
    .prefault({})
    .describe('Browser access (CORS) to upload resources and to creations.'),
  http2: z
    .strictObject({
      stream_window: size({ least: 65535 })
        .prefault('4MiB')
        .describe('Bytes a client may send ahead on one stream. Small windows make distant clients slow.'),
      session_window: size({ least: 65535 })
        .prefault('8MiB')
        .describe('Bytes a client may send ahead on one connection, all streams together.'),
      max_streams: integer({ least: 1, most: 10000 })
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
export const adminOnly = z.object({ admin: schema.shape.admin });

/** The settings as they stand in the file, checked and with defaults; sizes in bytes, times in milliseconds. */
export type Settings = z.output<typeof schema>;

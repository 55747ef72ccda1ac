import { connect, isIP, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';

/** The settings for verifying TLS origins, if they differ from Node's defaults. */
export interface OriginTls {
  /** CA certificates (PEM) that are trusted instead of Node's. */
  readonly ca?: string | Buffer | readonly (string | Buffer)[];
  readonly rejectUnauthorized?: boolean;
  /** This proxy's client certificate (PEM). */
  readonly cert?: string | Buffer;
  readonly key?: string | Buffer;
}

/** The parts of an origin URL, and its newest TLS session. */
export interface Endpoint {
  readonly isSecure: boolean;
  readonly address: { readonly host: string; readonly port: number };
  /** Prefix of every target. */
  readonly path: string;
  session?: Buffer;
}

/** Parses an origin URL. */
export function parseEndpoint(url: string): Endpoint {
  const { protocol, hostname, port, pathname } = new URL(url);
  const isSecure = protocol === 'https:';
  const address = { host: hostname.replace(/^\[|\]$/g, ''), port: port === '' ? (isSecure ? 443 : 80) : Number(port) };
  return { isSecure, address, path: pathname.replace(/\/$/, '') };
}

/** Opens a socket. It is destroyed if it is not connected in time. */
export function connectTo(endpoint: Endpoint, tls: OriginTls, timeoutMs?: number): Socket {
  const socket = endpoint.isSecure ? connectSecurely(endpoint, tls) : connect({ ...endpoint.address, noDelay: true });
  if (timeoutMs !== undefined) enforceConnectTimeout(socket, timeoutMs);
  return socket;
}

function connectSecurely(endpoint: Endpoint, tls: OriginTls): Socket {
  const { address, session } = endpoint;
  const { ca, cert, key, rejectUnauthorized = true } = tls;
  const socket = connectTls({
    ...address,
    // RFC 6066 §3: a server name is never an address.
    servername: isIP(address.host) === 0 ? address.host : '',
    ALPNProtocols: ['http/1.1'],
    rejectUnauthorized,
    ...(ca !== undefined && { ca: [ca].flat() }),
    ...(cert !== undefined && { cert }),
    ...(key !== undefined && { key }),
    ...(session && { session }),
  });
  socket.setNoDelay(true);
  // A resumed session saves the origin its most expensive step. Node reports none of a server that it has not verified.
  socket.on('session', (newest) => (endpoint.session = newest));
  return socket;
}

/** A dead machine does not refuse a connection but stays silent. */
function enforceConnectTimeout(socket: Socket, timeoutMs: number): void {
  let isDecided = false;
  const fail = (): void => {
    if (!isDecided) socket.destroy(Object.assign(new Error('no connection in time'), { code: 'ETIMEDOUT' }));
  };
  // In a busy process the timer may be late, and the connection be established by then: its event comes before `setImmediate`.
  const timer = setTimeout(() => setImmediate(fail), timeoutMs);
  const decide = (): void => {
    isDecided = true;
    clearTimeout(timer);
  };
  socket.once('close', decide);
  socket.once('encrypted' in socket ? 'secureConnect' : 'connect', decide);
}

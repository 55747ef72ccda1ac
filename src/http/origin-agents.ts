import { Agent as HttpAgent } from 'node:http';
import type { Http2Session } from 'node:http2';
import { Agent as HttpsAgent } from 'node:https';
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { writeOctets } from './octets.js';
import { makePatient } from './patient-socket.js';

/** How TLS origins are verified, beyond Node's defaults. */
export interface OriginTls {
  /** Certificates (PEM) that are trusted instead of the well-known ones. */
  readonly ca?: string | Buffer | readonly (string | Buffer)[];
  readonly rejectUnauthorized?: boolean;
  /** Our own certificate (PEM), for those who want to know who asks. */
  readonly cert?: string | Buffer;
  readonly key?: string | Buffer;
}

/** An unused connection ends before most origins would end it, so that few requests meet a closing one. */
const IDLE_MS = 4_000;
const MOST_IDLE_CONNECTIONS = 256;

/** The connection of a client: a socket, or a session of HTTP/2. */
export type ClientConnection = Socket | Http2Session;

interface Agents {
  readonly http: HttpAgent;
  readonly https: HttpAgent;
}

/** The connections to the origins: kept alive for the next request, all of them patient. */
export class OriginAgents {
  private readonly kept: Agents;
  private readonly fresh: Agents;
  /** Of clients that log in by connection. */
  private readonly own = new Map<ClientConnection, Agents>();
  private readonly verifying: object;

  constructor(tls: OriginTls = {}) {
    const keeping = {
      keepAlive: true,
      maxFreeSockets: MOST_IDLE_CONNECTIONS,
      scheduling: 'lifo',
      timeout: IDLE_MS,
    } as const;
    const { rejectUnauthorized = true, cert, key } = tls;
    const ca = tls.ca === undefined ? {} : { ca: [tls.ca].flat() };
    this.verifying = { ...ca, ...(cert && { cert }), ...(key && { key }), rejectUnauthorized };
    this.kept = { http: new PatientAgent(keeping), https: new PatientTlsAgent({ ...keeping, ...this.verifying }) };
    this.fresh = { http: new PatientAgent({}), https: new PatientTlsAgent(this.verifying) };
  }

  /** `fresh`: a connection that was not used before and will not be used again. A client's own is preferred to both. */
  for(protocol: string, connection: 'kept' | 'fresh', client?: ClientConnection): HttpAgent {
    const agents = (client && this.own.get(client)) ?? this[connection];
    return protocol === 'https:' ? agents.https : agents.http;
  }

  /** The client has connections to origins of its own. */
  isReserved(client: ClientConnection | undefined): boolean {
    return client !== undefined && this.own.has(client);
  }

  /**
   * From now on this client's requests share one connection to each origin, which ends with the client's and carries
   * nobody else's. One, because each round of a login has to meet the one before.
   */
  reserve(client: ClientConnection): void {
    if (client.destroyed || this.own.has(client)) return;
    const options = { keepAlive: true, maxSockets: 1 };
    const agents = { http: new PatientAgent(options), https: new PatientTlsAgent({ ...options, ...this.verifying }) };
    this.own.set(client, agents);
    client.once('close', () => {
      this.own.delete(client);
      agents.http.destroy();
      agents.https.destroy();
    });
  }

  /** Connections that are open now, in use or idle. */
  get openConnections(): number {
    return this.all.reduce((sum, agent) => sum + count(agent.sockets) + count(agent.freeSockets), 0);
  }

  /** Ends every connection. */
  close(): void {
    for (const agent of this.all) agent.destroy();
  }

  private get all(): HttpAgent[] {
    return [this.kept, this.fresh, ...this.own.values()].flatMap(({ http, https }) => [http, https]);
  }
}

type Created = (error: Error | null, socket: Duplex) => void;

class PatientAgent extends HttpAgent {
  override createConnection(...[options, created]: Parameters<HttpAgent['createConnection']>) {
    return patientIfSocket(super.createConnection(options, patientLater(created)));
  }
}

class PatientTlsAgent extends HttpsAgent {
  override createConnection(...[options, created]: Parameters<HttpsAgent['createConnection']>) {
    return patientIfSocket(super.createConnection(options, patientLater(created)));
  }
}

/** An agent may give its socket by return or by callback. */
function patientLater(created: Created | undefined): Created | undefined {
  return created && ((error, socket) => created(error, patientIfSocket(socket)));
}

function patientIfSocket<T>(socket: T): T {
  return socket instanceof Socket ? makePatient(writeOctets(socket)) : socket;
}

function count(sockets: NodeJS.ReadOnlyDict<Socket[]>): number {
  return Object.values(sockets).reduce((sum, some) => sum + (some?.length ?? 0), 0);
}

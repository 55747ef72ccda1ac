import { Agent as HttpAgent } from 'node:http';
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

/** The connections to the origins: kept alive for the next request, all of them patient. */
export class OriginAgents {
  private readonly kept: { readonly http: HttpAgent; readonly https: HttpAgent };
  private readonly fresh: { readonly http: HttpAgent; readonly https: HttpAgent };

  constructor(tls: OriginTls = {}) {
    const keeping = {
      keepAlive: true,
      maxFreeSockets: MOST_IDLE_CONNECTIONS,
      scheduling: 'lifo',
      timeout: IDLE_MS,
    } as const;
    const { rejectUnauthorized = true, cert, key } = tls;
    const ca = tls.ca === undefined ? {} : { ca: [tls.ca].flat() };
    const verifying = { ...ca, ...(cert && { cert }), ...(key && { key }), rejectUnauthorized };
    this.kept = { http: new PatientAgent(keeping), https: new PatientTlsAgent({ ...keeping, ...verifying }) };
    this.fresh = { http: new PatientAgent({}), https: new PatientTlsAgent(verifying) };
  }

  /** `fresh`: a connection that was not used before and will not be used again. */
  for(protocol: string, connection: 'kept' | 'fresh'): HttpAgent {
    return protocol === 'https:' ? this[connection].https : this[connection].http;
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
    return [this.kept.http, this.kept.https, this.fresh.http, this.fresh.https];
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

import type { Config } from '../config/config.js';
import type { Log } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import type { ConnectionGate } from '../server/connection-limits.js';
import { type Handlers, type Listener, type ListenerSettings, startListener } from '../server/listener.js';
import { CertificateFiles, type LoadedTls, loadTls } from './certificate-files.js';

export interface ClientListenersOptions {
  readonly handlers: Handlers;
  readonly gate: ConnectionGate;
  readonly isSharedPeer: (address: string) => boolean;
  /** Interval at which the files of certificates are looked at. */
  readonly certificatePollMs: number;
  readonly metrics: Metrics;
  readonly log: Log;
}

/** A listener, and the files of its certificate if it has one. */
interface OpenListener {
  readonly listener: Listener;
  readonly certificate?: CertificateFiles;
}

/** The listeners for clients. */
export class ClientListeners {
  private readonly open: OpenListener[] = [];

  constructor(private readonly options: ClientListenersOptions) {}

  get all(): readonly Listener[] {
    return this.open.map(({ listener }) => listener);
  }

  /** Starts one listener after the other. Those that have started need `stop` even if another one fails. */
  async start(config: Config): Promise<void> {
    for (const each of config.listeners) {
      const loaded = each.tls && (await loadTls(each.tls));
      const listener = await this.startOne(config, each, loaded);
      const certificate = loaded && this.watch(listener, loaded);
      this.open.push({ listener, ...(certificate && { certificate }) });
    }
  }

  /**
   * Prepares to follow another configuration with the same addresses, and returns the function that does so. Rejects if
   * a certificate cannot be used; nothing has changed then.
   */
  async prepare(config: Config): Promise<() => void> {
    const loaded = await Promise.all(config.listeners.map(async ({ tls }) => tls && loadTls(tls)));
    return () => {
      this.open.forEach(({ listener, certificate }, index) => {
        listener.configure(settingsOf(config, config.listeners[index]!));
        const newest = loaded[index];
        if (!newest || !certificate) return;
        listener.setTls(newest.tls);
        certificate.use(newest);
      });
    };
  }

  /** The certificates in use. */
  get certificates(): readonly { readonly url: string; readonly expiresAt: number }[] {
    return this.open.flatMap(({ listener: { url }, certificate }) =>
      certificate ? [{ url, expiresAt: certificate.expiresAt }] : [],
    );
  }

  endIdle(): void {
    for (const { listener } of this.open) listener.endIdle();
  }

  /** Ends every connection, and no longer watches certificates. */
  async stop(): Promise<void> {
    await Promise.all(this.open.map(async ({ certificate }) => certificate?.stop()));
    await closeListeners(this.all, 0);
  }

  private startOne(config: Config, each: ListenerConfig, loaded: LoadedTls | undefined): Promise<Listener> {
    const { handlers, gate, isSharedPeer, metrics, log } = this.options;
    const { address, http2, mode } = each;
    return startListener(
      {
        address: address.kind === 'unix' ? { ...address, mode } : address,
        http2,
        tls: loaded?.tls,
        windows: { stream: config.http2.streamWindowBytes, session: config.http2.sessionWindowBytes },
        maxConcurrentStreams: config.http2.maxStreams,
        maxHeadBytes: config.maxHeadBytes,
        ...settingsOf(config, each),
        gate,
        isSharedPeer,
        onSlowReader: ({ remoteAddress }) => {
          metrics.slowClient('response');
          log.info({ client: remoteAddress }, 'connection closed: the client read its response too slowly');
        },
      },
      handlers,
    );
  }

  private watch(listener: Listener, loaded: LoadedTls): CertificateFiles {
    const { certificatePollMs: everyMs, log } = this.options;
    return new CertificateFiles({ loaded, onRenewed: (tls) => listener.setTls(tls), everyMs, url: listener.url, log });
  }
}

type ListenerConfig = Config['listeners'][number];

/** Responses are measured over a longer window, because buffers in between drain in large steps. */
const RESPONSE_WINDOW_FACTOR = 5;

function settingsOf({ minRate, headTimeoutMs }: Config, { keepAliveMs }: ListenerConfig): ListenerSettings {
  return {
    keepAliveTimeoutMs: keepAliveMs,
    headersTimeoutMs: headTimeoutMs,
    responseRate: { bytesPerSecond: minRate.response ?? 0, windowMs: minRate.windowMs * RESPONSE_WINDOW_FACTOR },
  };
}

/** Ends idle connections immediately, others after their response, and all of them after the grace time. */
export async function closeListeners(listeners: readonly Listener[], graceMs: number): Promise<void> {
  for (const listener of listeners) listener.stopAccepting();
  const deadline = setTimeout(() => listeners.forEach((listener) => listener.destroyAll()), graceMs);
  await Promise.all(listeners.map(({ closed }) => closed));
  clearTimeout(deadline);
}

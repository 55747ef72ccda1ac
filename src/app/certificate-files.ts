import { X509Certificate } from 'node:crypto';
import type { Stats } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { createSecureContext } from 'node:tls';
import { PeriodicTask } from '../concurrency/periodic-task.js';
import type { ListenerTls } from '../config/config.js';
import type { Log } from '../observe/log.js';
import type { ServerTls } from '../server/http1-server.js';

/** The certificate of a listener as it was read from its files. */
export interface LoadedTls {
  readonly files: ListenerTls;
  readonly tls: ServerTls;
  /** Differs when one of the files has changed. */
  readonly state: string;
}

/** Reads the files. Rejects if one of them cannot be read, or if they do not work together. */
export async function loadTls(files: ListenerTls): Promise<LoadedTls> {
  const { clientCa, minVersion } = files;
  const state = await stateOf(files);
  const [cert, key, ca] = await Promise.all([
    readFile(files.cert),
    readFile(files.key),
    clientCa === undefined ? undefined : readFile(clientCa),
  ]);
  if (ca) assertCertificates(ca);
  const tls = { cert, key, minVersion, ...(ca && { ca }) };
  createSecureContext(tls);
  if ((await stateOf(files)) !== state) throw new Error('the files changed while they were read');
  return { files, tls, state };
}

/** Node ignores a file without certificates and the rest of a half-written one: no client could connect any more. */
function assertCertificates(pem: Buffer): void {
  const parts = pem.toString('latin1').split(/(?=-----BEGIN )/);
  const certificates = parts.filter((part) => part.startsWith('-----BEGIN '));
  if (certificates.length === 0) throw new Error('there is no certificate in the file of client_ca');
  for (const certificate of certificates) new X509Certificate(certificate);
}

/** A file that another one replaces, or that a link no longer leads to, has another number; a rewritten one another time. */
async function stateOf({ cert, key, clientCa }: ListenerTls): Promise<string> {
  const files = [cert, key, ...(clientCa === undefined ? [] : [clientCa])];
  const states = await Promise.all(files.map((file) => stat(file)));
  // Reading from a pipe changes its times.
  return states.map((state) => (state.isFile() ? stateOfFile(state) : 'no regular file')).join('; ');
}

function stateOfFile({ dev, ino, size, mtimeMs, ctimeMs }: Stats): string {
  return [dev, ino, size, mtimeMs, ctimeMs].join(' ');
}

export interface CertificateFilesOptions {
  readonly loaded: LoadedTls;
  /** Called with a certificate that replaces the one before. */
  readonly onRenewed: (tls: ServerTls) => void;
  readonly everyMs: number;
  /** The listener, for the log. */
  readonly url: string;
  readonly log: Log;
}

/**
 * Watches the files of a listener's certificate. It looks at them periodically, because notifications differ between
 * file systems and miss the links that Kubernetes swaps. New files count once they work together; until then the
 * former ones stay in use.
 */
export class CertificateFiles {
  private loaded: LoadedTls;
  private failures = 0;
  private readonly polling: PeriodicTask;

  constructor(private readonly options: CertificateFilesOptions) {
    this.loaded = options.loaded;
    this.polling = new PeriodicTask(() => this.look(), options.everyMs);
    this.polling.start();
  }

  /** Watches other files from now on, whose content is in use already. */
  use(loaded: LoadedTls): void {
    this.loaded = loaded;
    this.failures = 0;
  }

  /** The end of its validity, in milliseconds since the epoch. */
  get expiresAt(): number {
    return Date.parse(new X509Certificate(this.loaded.tls.cert).validTo);
  }

  stop(): Promise<void> {
    return this.polling.stop();
  }

  private async look(): Promise<void> {
    const { loaded } = this;
    try {
      const isUnchanged = (await stateOf(loaded.files)) === loaded.state;
      const newest = isUnchanged ? undefined : await loadTls(loaded.files);
      // A reload may have replaced the files meanwhile.
      if (this.loaded !== loaded) return;
      this.failures = 0;
      if (newest) this.renew(newest);
    } catch (error) {
      if (this.loaded === loaded) this.reportFailure(error as Error);
    }
  }

  private renew(newest: LoadedTls): void {
    const { onRenewed, log, url } = this.options;
    this.loaded = newest;
    onRenewed(newest.tls);
    const { validTo } = new X509Certificate(newest.tls.cert);
    log.info({ url, validTo }, 'the certificate was renewed from its files');
  }

  /** Between two looks only one of the files may have been replaced, so the first failure is not reported. */
  private reportFailure({ message }: Error): void {
    if (++this.failures !== 2) return;
    const { log, url } = this.options;
    const { cert, key, clientCa } = this.loaded.files;
    log.error(
      { url, cert, key, clientCa, problem: message },
      'changed TLS files cannot be used; the former ones stay in use',
    );
  }
}

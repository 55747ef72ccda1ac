import type { Delivery } from '../delivery/delivery.js';
import type { Metrics } from '../observe/metrics.js';
import type { DiskSpace } from '../spool/disk-space.js';
import { ifAvailable, type Totals } from '../store/upload-store.js';
import type { ClientListeners } from './listening.js';
import type { Storage } from './storage.js';

/** The gauges of what lies in the store and in the spool. */
export function watchStore(metrics: Metrics, storage: Storage): void {
  // Without the store the other metrics can still be read.
  const totals = (): Promise<Totals | undefined> => ifAvailable(() => storage.store.totals());
  metrics.countUploads(async () => (await totals())?.phases);
  metrics.countUnreadable(async () => (await storage.setAsideRecords()).length);
  metrics.countUnknown(() => storage.unknownUploads?.());
  metrics.countSpoolBytes(async () => (await totals())?.bytes);
  metrics.countReservedBytes(async () => (await totals())?.reservedBytes);
}

/** The room on the disk of the spool, as it was known at the last creation or scrape. */
export function watchDisk(metrics: Metrics, space: DiskSpace): void {
  metrics.watch({
    name: 'rufh_spool_free_bytes',
    help: 'Bytes that the disk of the spool has left, less what spool.keep_free keeps.',
    aggregator: 'min',
    read: () => only(space.free?.bytes),
  });
  metrics.watch({
    name: 'rufh_spool_free_files',
    help: 'Files that can still be made on the disk of the spool, less what spool.keep_free keeps.',
    aggregator: 'min',
    read: () => only(space.free?.files),
  });
}

function only(value: number | undefined): [of: string, value: number][] {
  return value === undefined ? [] : [['', value]];
}

/** Origins come from the configuration, so there are few of them. */
export function watchOrigins(metrics: Metrics, delivery: Pick<Delivery, 'origins'>): void {
  metrics.watch({
    name: 'rufh_breaker_open',
    help: 'Whether requests to an origin are paused after too many failures in a row: 1, or 0.',
    label: 'origin',
    aggregator: 'max',
    read: () => delivery.origins.map(({ origin, breaker }) => [origin, breaker === 'closed' ? 0 : 1]),
  });
}

export function watchCertificates(metrics: Metrics, listeners: Pick<ClientListeners, 'certificates'>): void {
  metrics.watch({
    name: 'rufh_certificate_expiry_timestamp_seconds',
    help: 'When the certificate of a listener expires, in seconds since 1970.',
    label: 'listener',
    aggregator: 'min',
    read: () => listeners.certificates.map(({ url, expiresAt }) => [url, expiresAt / 1000]),
  });
}

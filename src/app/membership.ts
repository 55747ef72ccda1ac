import { readFile } from 'node:fs/promises';
import { LostNodes } from '../cluster/lost-nodes.js';
import { Migrator } from '../cluster/migrator.js';
import { OwnerCache } from '../cluster/owner-cache.js';
import { PeerFiles, PeerFilesClient } from '../cluster/peer-files.js';
import type { ClusterConfig } from '../config/cluster.js';
import type { HttpHandler } from '../handler/handler.js';
import type { Log } from '../observe/log.js';
import type { Metrics } from '../observe/metrics.js';
import { PeerSignature } from '../proxy/peer-auth.js';
import { startPeerListener } from '../proxy/peer-listener.js';
import { PeerRelay, type PeerRelayOptions } from '../proxy/peer-relay.js';
import type { Listener } from '../server/listener.js';
import type { Spool } from '../spool/spool.js';
import type { Leases } from '../store/leases.js';
import type { UploadStore } from '../store/upload-store.js';
import type { Closer, OtherNodes } from './storage.js';

export interface MembershipDeps {
  /** The name of this node. */
  readonly node: string;
  readonly others: OtherNodes;
  readonly store: UploadStore;
  readonly leases: Leases;
  readonly spool: Spool;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly clock: () => number;
  /** Milliseconds by a clock that nobody sets. */
  readonly monotonic: () => number;
  readonly opened: Closer[];
  /** Notes that a client was told that the outcome of an attempt is unknown. */
  readonly onUnknownOutcomeReported: PeerRelayOptions['onUnknownOutcomeReported'];
}

/** This node among those that have bytes of their own: how it asks the others, and how they ask it. */
export interface Membership {
  readonly relay: PeerRelay;
  readonly migrator: Migrator;
  /** Opens the internal listener, and tells the others where it is. */
  join(entry: HttpHandler): Promise<Listener>;
  /** Tells the others to leave nothing here any more. */
  leave(): Promise<void>;
}

export async function openMembership(config: ClusterConfig, deps: MembershipDeps): Promise<Membership> {
  const { node: self, others, log, clock, monotonic, opened, onUnknownOutcomeReported } = deps;
  const { nodes } = others;
  const signature = new PeerSignature(config.secret, self, clock);
  const tls = config.tls && (await filesOf(config.tls));
  const trusting = { signature, ...(tls ? { tls } : {}), log };
  const { ownerTimeoutMs } = config;
  const owners = new OwnerCache(nodes, monotonic);
  const relay = new PeerRelay({ ...trusting, self, owners, ownerTimeoutMs, onUnknownOutcomeReported });
  opened.push(() => Promise.resolve(relay.close()));
  const migrator = new Migrator({ ...deps, self, nodes, files: new PeerFilesClient(trusting) });
  opened.push(() => migrator.stop());
  const gone = new LostNodes({ ...deps, ...others, self, ownerTimeoutMs });
  let isLeaving = false;
  const announce = (): Promise<void> => nodes.announce({ name: self, url: config.advertise, isLeaving });
  const files = new PeerFiles({ ...deps, self, isLeaving: () => isLeaving });
  return {
    relay,
    migrator,
    join: async (entry) => {
      const listener = await startPeerListener(
        { ...trusting, address: config.listen },
        {
          onRequest: (exchange, client) => void entry.handle(exchange, client),
          onFiles: (exchange) => void files.answer(exchange),
        },
      );
      opened.push(() => nodes.close());
      opened.push(() => gone.stop());
      await announce();
      gone.start();
      return listener;
    },
    leave: () => {
      isLeaving = true;
      return announce();
    },
  };
}

async function filesOf({ cert, key, ca }: NonNullable<ClusterConfig['tls']>) {
  return { cert: await readFile(cert), key: await readFile(key), ca: await readFile(ca) };
}

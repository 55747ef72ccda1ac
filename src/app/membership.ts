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

/** The parts of this node that its membership uses. */
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
  /** Monotonic clock in milliseconds. */
  readonly monotonic: () => number;
  readonly closers: Closer[];
  /** Records that a client was informed about an unknown outcome. */
  readonly onUnknownOutcomeReported: PeerRelayOptions['onUnknownOutcomeReported'];
}

/** The membership of this node in a cluster whose nodes have spools of their own. */
export interface Membership {
  readonly relay: PeerRelay;
  readonly migrator: Migrator;
  /** Starts the listener for other nodes and announces its address. */
  join(handler: Pick<HttpHandler, 'handle'>): Promise<Listener>;
  /** Announces that this node accepts no more uploads from others. */
  leave(): Promise<void>;
  /** Announces that this node accepts uploads from others again. */
  rejoin(): Promise<void>;
}

/** Prepares the membership; other nodes reach this one only after `join`. */
export async function openMembership(config: ClusterConfig, deps: MembershipDeps): Promise<Membership> {
  const { node: self, others, log, clock, monotonic, closers, onUnknownOutcomeReported } = deps;
  const { nodes } = others;
  const signature = new PeerSignature(config.secret, self, clock);
  const tls = config.tls && (await readTlsFiles(config.tls));
  const peerOptions = { signature, ...(tls ? { tls } : {}), log };
  const { ownerTimeoutMs } = config;
  const owners = new OwnerCache(nodes, monotonic);
  const relay = new PeerRelay({ ...peerOptions, self, owners, ownerTimeoutMs, onUnknownOutcomeReported });
  closers.push(() => Promise.resolve(relay.close()));
  const migrator = new Migrator({ ...deps, self, nodes, files: new PeerFilesClient(peerOptions) });
  closers.push(() => migrator.stop());
  const lostNodes = new LostNodes({ ...deps, ...others, self, ownerTimeoutMs });
  let isLeaving = false;
  const announce = (): Promise<void> => nodes.announce({ name: self, url: config.advertise, isLeaving });
  const files = new PeerFiles({ ...deps, self, isLeaving: () => isLeaving });
  return {
    relay,
    migrator,
    join: async (handler) => {
      const listener = await startPeerListener(
        { ...peerOptions, address: config.listen },
        {
          onRequest: (exchange, client) => void handler.handle(exchange, client),
          onFiles: (exchange) => void files.respond(exchange),
        },
      );
      closers.push(() => nodes.close());
      closers.push(() => lostNodes.stop());
      await announce();
      lostNodes.start();
      return listener;
    },
    leave: () => {
      isLeaving = true;
      return announce();
    },
    rejoin: () => {
      isLeaving = false;
      return announce();
    },
  };
}

async function readTlsFiles({ cert, key, ca }: NonNullable<ClusterConfig['tls']>) {
  return { cert: await readFile(cert), key: await readFile(key), ca: await readFile(ca) };
}

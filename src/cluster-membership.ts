import { readFile } from 'node:fs/promises';
import { KnownOwners } from './cluster/known-owners.js';
import type { ClusterConfig } from './config/cluster-config.js';
import type { Entry } from './http/entry.js';
import { startPeerListener } from './http/peer-listener.js';
import { PeerRelay } from './http/peer-relay.js';
import { PeerSignature } from './http/peer-signature.js';
import type { Listener } from './http/server.js';
import type { Log } from './observe/log.js';
import type { Closing } from './storage.js';
import type { Nodes } from './store/nodes.js';

export interface MembershipRooms {
  /** The name of this node. */
  readonly node: string;
  readonly nodes: Nodes;
  readonly log: Log;
  readonly clock: () => number;
  readonly opened: Closing[];
}

/** This node among those that have bytes of their own: how it asks the others, and how they ask it. */
export interface Membership {
  readonly relay: PeerRelay;
  /** Opens the internal listener, and tells the others where it is. */
  join(entry: Entry): Promise<Listener>;
}

export async function openMembership(config: ClusterConfig, rooms: MembershipRooms): Promise<Membership> {
  const { node, nodes, log, clock, opened } = rooms;
  const signature = new PeerSignature(config.secret, node, clock);
  const tls = config.tls && (await filesOf(config.tls));
  const { ownerTimeoutMs } = config;
  const owners = new KnownOwners(nodes, clock);
  const relay = new PeerRelay({ self: node, owners, signature, ...(tls ? { tls } : {}), ownerTimeoutMs, log });
  opened.push(() => Promise.resolve(relay.close()));
  return {
    relay,
    join: async (entry) => {
      const listener = await startPeerListener(
        { address: config.listen, ...(tls ? { tls } : {}), signature, log },
        {
          onRequest: (exchange, client) => void entry.handle(exchange, client),
          onFiles: ({ res }) => void res.destroy(),
        },
      );
      opened.push(() => nodes.close());
      await nodes.announce({ name: node, url: config.advertise, isLeaving: false });
      return listener;
    },
  };
}

async function filesOf({ cert, key, ca }: NonNullable<ClusterConfig['tls']>) {
  return { cert: await readFile(cert), key: await readFile(key), ca: await readFile(ca) };
}

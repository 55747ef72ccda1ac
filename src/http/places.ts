import { clientFields } from '../model/client-fields.js';
import { Fault } from '../model/fault.js';
import type { RequestHead } from '../model/request-head.js';
import {
  passesSmallUploads,
  plainBodiesFor,
  reshapes,
  type Route,
  routeFor,
  type Routes,
  saysFields,
} from '../model/route.js';
import type { Upload } from '../model/upload.js';
import type { Place } from '../protocol/detect.js';
import type { Uploads } from '../uploads/uploads.js';
import type { Access } from './access.js';
import { locate } from './locate.js';
import { BadHead } from './request-head.js';

/** What a request's path leads to, with the route that holds there. */
export interface Found {
  /** The request as it goes on: with the canonical target where the route is protected, and what a client may say. */
  readonly head: RequestHead;
  readonly place: Place;
  /** An upload's own; the target's otherwise. */
  readonly route: Route;
  /** For OPTIONS on a target, the route whose uploads are told of: what any method on this path could have (RUFH §4.1.4). */
  readonly announced?: Route;
  /** Missing also when the upload is somebody else's. */
  readonly upload?: Upload;
  /** What is asked about the upload besides the upload resource itself. */
  readonly page?: 'status' | 'answer';
  /** Why nobody can say whether there is such an upload. */
  readonly fault?: Fault;
}

export interface PlacesOptions {
  readonly uploads: Pick<Uploads, 'find'>;
  readonly access: Access;
  readonly routes: Routes;
  /** Path of upload resources: begins and ends with a slash. */
  readonly uploadsPath: string;
}

/** What ids look like: anything else names no upload and reaches neither store nor disk. */
const WELL_FORMED_ID = /^[A-Za-z0-9_-]{32}$/;

/** Finds targets and uploads, and hides an upload from whoever did not create it where its route binds it. */
export class Places {
  constructor(private readonly options: PlacesOptions) {}

  async find(received: RequestHead): Promise<Found | BadHead> {
    const { routes, uploadsPath } = this.options;
    const located = locate(received, routes, uploadsPath);
    if (located.kind === 'refused') return new BadHead(400, located.detail);
    const { head } = located;
    if (located.kind === 'upload') return this.findUpload(head, head.path.slice(uploadsPath.length));
    const { method, path } = head;
    const { route } = located;
    const found = { head: withFieldsFor(head, route), route };
    if (method !== 'OPTIONS') return { ...found, place: targetOf(head, route) };
    const announced = routes.findResumable(path);
    return { ...found, announced, place: targetOf(head, { ...route, resumable: announced !== undefined }) };
  }

  private async findUpload(received: RequestHead, rest: string): Promise<Found> {
    const [, id = rest, page] = /^([^/]*)\/(status|answer)$/.exec(rest) ?? [];
    const upload = await this.uploadOf(id);
    const isKnown = upload !== undefined && !(upload instanceof Fault);
    const route = isKnown ? this.routeOfUpload(upload) : this.options.routes.find(received.method, received.path);
    const head = withFieldsFor(received, route);
    if (upload instanceof Fault)
      return { head, place: { kind: 'upload', id, dialect: undefined }, route, fault: upload };
    const own = upload && (await this.ownUpload(upload, head, route));
    if (own instanceof Fault) return { head, place: { kind: 'upload', id, dialect: undefined }, route, fault: own };
    const place: Place = { kind: 'upload', id, dialect: own?.dialect };
    return { head, place, route, upload: own, page: page as Found['page'] };
  }

  private async uploadOf(id: string): Promise<Upload | undefined | Fault> {
    try {
      return WELL_FORMED_ID.test(id) ? await this.options.uploads.find(id) : undefined;
    } catch (fault) {
      // What it means is for the protocol to say, which is not known before the place is.
      if (fault instanceof Fault) return fault;
      throw fault;
    }
  }

  /** RUFH, security considerations: who did not create it is told that there is no such upload. */
  private async ownUpload(upload: Upload, head: RequestHead, route: Route): Promise<Upload | undefined | Fault> {
    if (upload.principal === undefined) return upload;
    try {
      const owner = await this.options.access.ownerOf(head, route);
      return owner.kind === 'one' && owner.digest === upload.principal ? upload : undefined;
    } catch (fault) {
      if (fault instanceof Fault) return fault;
      throw fault;
    }
  }

  private routeOfUpload({ route, request }: Upload): Route {
    const { routes } = this.options;
    return routes.byName(route) ?? routes.find(request.method, request.target.split('?', 1)[0]!);
  }
}

/** The same head everywhere: a field that one looks at and another does not would make them two owners of an upload. */
function withFieldsFor(head: RequestHead, route: Route): RequestHead {
  return { ...head, headers: clientFields(head.headers, route) };
}

function targetOf({ method }: RequestHead, route: Route): Place {
  const { resumable, limits, delivery } = routeFor(method, route);
  return {
    kind: 'target',
    resumable,
    minSize: passesSmallUploads(route) ? limits.minSize : 0,
    plainBodies: plainBodiesFor(method, route),
    shapesEmptyBodies: reshapes(delivery),
    refusesForms: saysFields(delivery.framing),
  };
}

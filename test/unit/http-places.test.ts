import { expect, test } from '@jest/globals';
import { checkSettings } from '../../src/config/load.js';
import { buildRoutes } from '../../src/config/route-table.js';
import { Authorizer } from '../../src/handler/authorize.js';
import { UploadLookup } from '../../src/handler/upload-lookup.js';
import type { HeaderLine } from '../../src/model/headers.js';
import type { RequestHead } from '../../src/model/request-head.js';
import type { Route, Routes } from '../../src/model/route.js';
import type { Upload } from '../../src/model/upload.js';
import { silentLog } from '../../src/observe/log.js';
import { InvalidHead, readTarget } from '../../src/server/request-head.js';

const ID = 'a'.repeat(32);

/** Places with one upload that a request with these fields has begun, on a route that binds to a field. */
async function placesWithUpload(route: Route, creation: readonly HeaderLine[]): Promise<UploadLookup> {
  const access = new Authorizer(silentLog());
  const only: Routes = {
    find: () => route,
    findIgnoringCase: () => route,
    hasProtected: false,
    findResumable: () => route,
    byName: () => route,
    all: [route],
  };
  const uploads: { upload?: Upload } = {};
  const find = (): Promise<Upload | undefined> => Promise.resolve(uploads.upload);
  const places = new UploadLookup({ uploads: { find }, authorizer: access, routes: only, uploadsPath: '/.uploads/' });
  const created = await places.find(head('POST', '/files', creation));
  if (created instanceof InvalidHead) throw new Error(created.detail);
  const owner = await access.ownerOf(created.head, created.route);
  if (owner.kind !== 'client') throw new Error('the upload is bound to nobody');
  uploads.upload = { id: ID, principal: owner.digest, dialect: 'final' } as Upload;
  return places;
}

function head(method: string, target: string, headers: readonly HeaderLine[]): RequestHead {
  return { method, ...readTarget(method, target)!, headers, httpVersion: '1.1' } as unknown as RequestHead;
}

test.each([
  ['X-Api-Key', {}, 'X-Api-Key', true],
  ['X-Api-Key', {}, 'X_Api_Key', false],
  // These are dropped, so that the upload is bound to a missing value: its creator has it, and must not lose it.
  ['X_Api_Key', {}, 'X_Api_Key', true],
  ['X-Original-URL', {}, 'X-Original-URL', true],
  ['Remote-User', { forward_auth: 'http://auth' }, 'Remote-User', true],
  ['Remote-User', { forward_auth: 'http://auth' }, 'Remote_User', true],
])('bind_to %s with authorize %j: who creates with %s finds it again: %p', async (bound, authorize, sent, finds) => {
  const { config } = checkSettings({ origin: 'http://o', authorize });
  const route = { ...buildRoutes(config!).find('POST', '/files'), bindTo: [bound] };
  const places = await placesWithUpload(route, finds ? [[sent, 'k']] : [['X-Api-Key', 'k']]);
  const found = await places.find(head('HEAD', `/.uploads/${ID}`, [[sent, 'k']]));
  expect('upload' in found && found.upload?.id === ID).toBe(finds);
});

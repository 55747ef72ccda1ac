// An ordinary Express API: files by PUT, photos by a form. It contains nothing about resumable uploads; all of that is in
// rufh-proxy.yaml beside it.
//
//   node examples/express/server.mjs        (PORT, default 3000; UPLOADS, the directory for received files)
import { randomUUID } from 'node:crypto';
import { createWriteStream, mkdirSync } from 'node:fs';
import { rename, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { fileURLToPath } from 'node:url';
import express from 'express';
import multer from 'multer';

const directory = resolve(process.env.UPLOADS ?? 'uploads');
const [files, photos] = [join(directory, 'files'), join(directory, 'photos')];
for (const each of [files, photos]) mkdirSync(each, { recursive: true });

const app = express();
const form = multer({ dest: photos, defParamCharset: 'utf8' });

// The page of examples/browser.
app.use(express.static(fileURLToPath(new URL('../browser', import.meta.url))));

// The body is the file.
app.put('/files/:name', async (request, response) => {
  const { name } = request.params;
  if (!/^[^./\\][^/\\]*$/.test(name)) return response.status(400).json({ error: 'no name for a file' });
  const part = join(directory, randomUUID());
  try {
    const file = createWriteStream(part);
    await pipeline(request, file);
    await rename(part, join(files, name));
    taken(request, response, { name, size: file.bytesWritten });
  } finally {
    await rm(part, { force: true });
  }
});
app.get('/files/:name', (request, response) => response.download(request.params.name, { root: files }));

// The body is a form with a file in its field "photo".
app.post('/photos', form.single('photo'), (request, response) => {
  if (!request.file) return response.status(400).json({ error: 'no photo in the form' });
  const { filename: id, originalname: name, mimetype: type, size } = request.file;
  taken(request, response, { id, name, type, size });
});
app.get('/photos/:id', (request, response) => response.download(request.params.id, { root: photos }));

function taken(request, response, what) {
  console.log(`${request.method} ${request.originalUrl} ${JSON.stringify(what)}`);
  response.status(201).json(what);
}

const server = app.listen(Number(process.env.PORT ?? 3000), '127.0.0.1', () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});

// What an Express application with multer sees of a multipart/form-data upload.
import { createHash } from 'node:crypto';
import express from 'express';
import multer from 'multer';

const app = express();
const upload = multer({ storage: multer.memoryStorage(), defParamCharset: 'utf8' });

app.post('/files', upload.single('photo'), ({ file, body }, response) => {
  response.json({
    field: file?.fieldname,
    filename: file?.originalname,
    type: file?.mimetype,
    size: file?.size,
    sha256: file && createHash('sha256').update(file.buffer).digest('hex'),
    fields: body,
  });
});

const server = app.listen(0, '127.0.0.1', () => console.log(server.address().port));

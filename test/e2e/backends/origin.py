"""What a Python application sees of a multipart/form-data upload, with nothing but the standard library."""

import hashlib
import json
import sys
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, HTTPServer


class Origin(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        head = b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n"
        seen = {"fields": {}}
        for part in BytesParser(policy=HTTP).parsebytes(head + body).iter_parts():
            name = part.get_param("name", header="content-disposition")
            content = part.get_payload(decode=True)
            if part.get_filename() is None:
                seen["fields"][name] = content.decode()
                continue
            seen.update(
                field=name,
                filename=part.get_filename(),
                type=part.get_content_type(),
                size=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
            )
        answer = json.dumps(seen).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Origin)
print(server.server_port, flush=True)
sys.stdout.close()
server.serve_forever()

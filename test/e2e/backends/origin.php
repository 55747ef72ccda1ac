<?php
// What a PHP application sees of a multipart/form-data upload.
$file = $_FILES['photo'] ?? null;
header('Content-Type: application/json');
echo json_encode([
  'field' => $file ? 'photo' : null,
  'filename' => $file['name'] ?? null,
  'type' => $file['type'] ?? null,
  'size' => $file['size'] ?? null,
  'sha256' => $file && $file['error'] === 0 ? hash_file('sha256', $file['tmp_name']) : null,
  'fields' => $_POST,
], JSON_UNESCAPED_UNICODE);

"use strict";
// A file of its own, because the content security policy of the pages forbids inline scripts.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  // Swagger UI would otherwise send the schema's address to validator.swagger.io.
  validatorUrl: null,
});

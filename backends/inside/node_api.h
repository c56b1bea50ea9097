/* What the add-on uses of the process that it is loaded into, by the names that they have there: Node-API
 * (nodejs.org/api/n-api.html), OpenSSL's RAND_poll(3), and V8's generator of seeds, which has no other door. All are
 * weak: preloaded into something else than node, the add-on does nothing. */
#ifndef MXC_NODE_API_H
#define MXC_NODE_API_H

#include <stddef.h>
#include <stdint.h>

#define WEAK __attribute__((weak))

typedef struct napi_env__ *napi_env;
typedef struct napi_value__ *napi_value;
typedef struct napi_callback_info__ *napi_callback_info;
typedef napi_value (*napi_callback)(napi_env env, napi_callback_info info);

WEAK int napi_create_array(napi_env env, napi_value *result);
WEAK int napi_create_function(napi_env env, const char *name, size_t length, napi_callback function, void *data,
                              napi_value *result);
WEAK int napi_create_int32(napi_env env, int32_t value, napi_value *result);
WEAK int napi_create_string_utf8(napi_env env, const char *text, size_t length, napi_value *result);
WEAK int napi_get_cb_info(napi_env env, napi_callback_info info, size_t *count, napi_value *arguments, napi_value *self,
                          void **data);
WEAK int napi_get_value_int32(napi_env env, napi_value value, int32_t *result);
WEAK int napi_set_element(napi_env env, napi_value object, uint32_t index, napi_value value);
WEAK int napi_set_named_property(napi_env env, napi_value object, const char *name, napi_value value);

WEAK int RAND_poll(void);

WEAK void *v8_current_isolate(void) __asm__("_ZN2v87Isolate10GetCurrentEv");
WEAK void *v8_generator(void *isolate) __asm__("_ZN2v88internal7Isolate23random_number_generatorEv");
WEAK void v8_set_seed(void *generator, int64_t seed) __asm__("_ZN2v84base21RandomNumberGenerator7SetSeedEl");

#endif
